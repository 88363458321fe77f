package registry

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// Twenty engines want six images at once that have layers in common, half of them as zstd, while garbage is collected: each gets
// its tree, each blob is fetched once, and there is one record per layer. Fault 4; spec MGR-26, EXT-3, PULL-1, quirk Q52.
func TestTogether(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		var images []*image
		var remotes []*remoteImage
		wanted := map[string]bool{}
		for i := range 6 {
			img := newImage(t, 1200, plain, 3+i/2).mix(t, []format{gzipped, zstded}[i%2])
			images = append(images, img)
			remotes = append(remotes, r.publishAs(t, fmt.Sprintf("%s/%d", repoName(t), i), img))
			for _, l := range img.layers {
				wanted[l.desc.Digest.String()] = true
			}
		}
		r.forget()
		stop := r.collectAlways()
		defer stop()
		var wg sync.WaitGroup
		start := make(chan struct{})
		refs, errs := make([]cache.ImmutableRef, 20), make([]error, 20)
		for i := range refs {
			wg.Go(func() {
				<-start
				refs[i], errs[i] = extract(r, remotes[i%6], images[i%6])
			})
		}
		close(start)
		wg.Wait()
		stop()
		for i, err := range errs {
			require.NoError(t, err, "goroutine %d", i)
		}
		for _, d := range r.fetched() {
			require.True(t, wanted[d.String()], "%s is nobody's", d)
			require.Equal(t, 1, r.gets(d), "%s", d)
		}
		require.Len(t, r.snapshots(), 5+3, "a tree for each layer, and a view for each image, whatever its compression")
		inUse, idle := testutil.Usage(t, r.Env)
		require.Equal(t, [2]int{10, 0}, [2]int{inUse, idle}, "five layers in two compressions")
		for _, ref := range refs {
			r.release(ref)
		}
		r.requireTidy()
		r.requireEmpty()
	})
}

// extract gets, extracts and checks an image.
func extract(r *rig, remote *remoteImage, img *image) (cache.ImmutableRef, error) {
	ref, err := remote.get(context.Background(), r.Manager)
	if err != nil {
		return nil, err
	}
	if err := ref.Extract(context.Background(), nil); err != nil {
		return ref, err
	}
	return ref, r.compare(img.tree, ref)
}

// Fault 6, quirk Q37: of three who wait for one transfer the first goes. The others get the layer, from the same transfer, and it
// is protected for them.
func TestFirstWaiterGoes(t *testing.T) {
	img := newImage(t, 1300, gzipped, 3)
	for _, held := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("waiting for layer %d", held), func(t *testing.T) {
			onEach(t, func(t *testing.T, r *rig) {
				remote := r.publish(t, img)
				d := img.layers[held].desc.Digest
				g := newGate()
				r.blob(d, g.stall)
				watched := newSpy()
				remote.provider = spied{remote.provider, watched}
				ref := r.get(remote)
				chain := ref.LayerChain()

				first, cancel := context.WithCancel(as(t.Context(), 1))
				errs := []chan error{make(chan error, 1), make(chan error, 1), make(chan error, 1)}
				go func() { errs[0] <- ref.Extract(first, nil) }()
				await(t, g.reached)
				go func() { errs[1] <- ref.Extract(as(t.Context(), 2), nil) }()
				go func() {
					_, err := chain[held].FileList(as(t.Context(), 3), nil)
					errs[2] <- err
				}()
				watched.joined(t, d, 1, 2, 3)
				cancel()
				require.ErrorIs(t, await(t, errs[0]), context.Canceled)
				r.gc()
				close(g.open)
				require.NoError(t, await(t, errs[1]))
				require.NoError(t, await(t, errs[2]))
				r.requireTidy()
				r.gc()
				r.requireTree(img.tree, ref)
				requireFetched(t, r.front, img.layers)
				require.Empty(t, g.left, "nobody hung up")
				require.NoError(t, chain.Release(t.Context()))
				r.release(ref)
				r.requireEmpty()
			})
		})
	}
}

// waiterKey marks the context of a caller.
type waiterKey int

func as(ctx context.Context, n waiterKey) context.Context { return context.WithValue(ctx, n, true) }

// spy remembers the context that providers are asked in for each blob. That is of a transfer that callers share, and finds
// the values in the contexts of all of them: it tells who takes part.
type spy struct {
	mu   sync.Mutex
	seen map[digest.Digest]func(waiterKey) bool
}

// spied is a provider that a spy watches.
type spied struct {
	content.Provider
	by *spy
}

func newSpy() *spy { return &spy{seen: map[digest.Digest]func(waiterKey) bool{}} }

func (p spied) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	p.by.mu.Lock()
	p.by.seen[desc.Digest] = func(n waiterKey) bool { return ctx.Value(n) != nil }
	p.by.mu.Unlock()
	return p.Provider.ReaderAt(ctx, desc)
}

// joined waits until callers wait for the transfer of a blob.
func (s *spy) joined(t testing.TB, d digest.Digest, ns ...waiterKey) {
	t.Helper()
	s.mu.Lock()
	has := s.seen[d]
	s.mu.Unlock()
	for _, n := range ns {
		require.Eventually(t, func() bool { return has(n) }, deadline, tick, "caller %d does not come", n)
	}
}

// Two images have one blob on different layers: it is fetched once for both records, and is each one's own, so that it stays when the
// other goes. Spec PULL-1, PULL-3, quirk Q52.
func TestOneBlobOnTwoBases(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		own := tree.Owner(os.Geteuid(), os.Getegid())
		top := []tree.Entry{tree.Dir("shared", own), tree.File("shared/file", "one blob", own)}
		images := []*image{newImage(t, 1700, gzipped, 1).with(t, gzipped, top...), newImage(t, 1701, zstded, 1).with(t, gzipped, top...)}
		d := images[0].layers[1].desc.Digest
		require.Equal(t, d, images[1].layers[1].desc.Digest)
		g := newGate()
		watched := newSpy()
		remotes, refs, errs := make([]*remoteImage, 2), make([]cache.ImmutableRef, 2), make(chan error, 2)
		for i, img := range images {
			remotes[i] = r.publishAs(t, fmt.Sprintf("%s/%d", repoName(t), i), img)
			remotes[i].provider = spied{remotes[i].provider, watched}
			refs[i] = r.get(remotes[i])
		}
		require.NotEqual(t, refs[0].ID(), refs[1].ID())
		r.blob(d, g.stall)
		for i := range refs {
			go func() { errs <- refs[i].Extract(as(t.Context(), waiterKey(i)), nil) }()
		}
		await(t, g.reached)
		watched.joined(t, d, 0, 1)
		close(g.open)
		for range refs {
			require.NoError(t, await(t, errs))
		}
		require.Equal(t, 1, r.gets(d))
		for i, ref := range refs {
			require.Equal(t, "pulled from "+remotes[i].ref, ref.GetDescription())
			r.requireTree(images[i].tree, ref)
		}
		r.release(refs[0])
		require.NoError(t, pruneAll(t.Context(), r.Manager))
		r.gc()
		require.True(t, r.local(d))
		r.requireTree(images[1].tree, refs[1])
		r.release(refs[1])
		r.requireTidy()
		r.requireEmpty()
	})
}

// Faults 25, 26: while the registry does not answer for one layer, everything that has nothing to do with it goes on: Get, New, Commit,
// reading, other layers of the same registry, the layers below, disk usage, pruning. Those who do want it wait as
// long as they like, and no longer.
func TestHangingRegistry(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		stuck, other := newImage(t, 1400, gzipped, 3), newImage(t, 1401, zstded, 3)
		hanging := r.publish(t, stuck)
		fine := r.publishAs(t, repoName(t)+"/other", other)
		g := newGate()
		r.blob(stuck.layers[1].desc.Digest, g.hang)
		local := testutil.MakeLayer(t, r.Env, nil, func(dir string) { testutil.WriteTree(t, dir, tree.File("a", "b")) })
		require.NoError(t, local.Finalize(ctx))

		ref := r.get(hanging)
		chain := ref.LayerChain()
		patient := make(chan error, 1)
		go func() { patient <- ref.Extract(ctx, nil) }()
		await(t, g.reached)

		for _, want := range tries(ref, chain[1]) {
			brief, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			done := make(chan error, 1)
			go func() { done <- want(brief) }()
			require.ErrorIs(t, await(t, done), context.DeadlineExceeded)
			cancel()
		}
		unrelated := make(chan error, 1)
		go func() { unrelated <- r.unrelated(ctx, local, fine, other, chain[0], stuck) }()
		require.NoError(t, await(t, unrelated))
		require.Empty(t, patient, "it still waits")

		close(g.open)
		require.NoError(t, await(t, patient))
		r.requireTree(stuck.tree, ref)
		require.Equal(t, 1, r.gets(stuck.layers[1].desc.Digest))
		require.NoError(t, chain.Release(ctx))
		r.release(ref, local)
		r.requireTidy()
		r.requireEmpty()
	})
}

// unrelated does what a record that hangs must not hold up.
func (r *rig) unrelated(ctx context.Context, local cache.ImmutableRef, fine *remoteImage, other *image, below cache.ImmutableRef, stuck *image) error {
	got, err := r.Manager.Get(ctx, local.ID(), nil)
	if err != nil {
		return err
	}
	mut, err := r.Manager.New(ctx, got, nil)
	if err != nil {
		return err
	}
	made, err := mut.Commit(ctx)
	if err != nil {
		return err
	}
	if err := made.Finalize(ctx); err != nil {
		return err
	}
	if err := r.compare(stuck.trees[0], below); err != nil {
		return errors.Wrap(err, "the layer below")
	}
	ref, err := extract(r, fine, other)
	if err != nil {
		return err
	}
	for _, ref := range []cache.Ref{got, made, ref} {
		if err := ref.Release(ctx); err != nil {
			return err
		}
	}
	if _, err := r.Manager.DiskUsage(ctx, usage.DiskUsageInfo{}); err != nil {
		return err
	}
	if err := pruneAll(ctx, r.Manager); err != nil {
		return err
	}
	return r.GC(ctx)
}

// Fault 26: a registry that hangs for a blob is given up by closing the cache, once the callers gave up; nothing waits for ever.
func TestCloseWhileHanging(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		img := newImage(t, 1500, gzipped, 2)
		remote := r.publish(t, img)
		g := newGate()
		r.blob(img.layers[0].desc.Digest, g.stall)
		ref := r.get(remote)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- ref.Extract(ctx, nil) }()
		await(t, g.reached)
		cancel()
		require.ErrorIs(t, await(t, done), context.Canceled)
		r.release(ref)
		closed := make(chan error, 1)
		go func() { closed <- r.Close() }()
		require.NoError(t, await(t, closed))
		r.Open()
		r.blob(img.layers[0].desc.Digest, honest)
		ref = r.get(remote)
		require.NoError(t, ref.Extract(t.Context(), nil))
		r.requireTree(img.tree, ref)
		r.release(ref)
		r.requireTidy()
		r.requireEmpty()
	})
}
