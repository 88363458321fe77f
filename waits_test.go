package cache_test

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// waits is a recorder that tells when somebody begins to wait.
type waits struct {
	recorder
	begun chan cache.Event
}

func (w *waits) Begin(ctx context.Context, ev cache.Event) (context.Context, func(cache.Event)) {
	if ev.Kind == cache.EventWait {
		w.begun <- ev
	}
	return ctx, nil
}

// waited returns the events of waits so far.
func (w *waits) waited() (out []cache.Event) {
	for _, ev := range w.take() {
		if ev.Kind == cache.EventWait {
			out = append(out, ev)
		}
	}
	return out
}

// both runs an operation that is held back at a fault point, and then one that has to wait for it; after three seconds it goes on.
func (w *waits) both(t *testing.T, env *testutil.Env, at fault.Match, first, second func() error) {
	t.Helper()
	block := env.Faults.Block(at)
	errs := make(chan error, 2)
	go func() { errs <- first() }()
	<-block.Entered()
	go func() { errs <- second() }()
	<-w.begun
	env.Clock.Advance(3 * time.Second)
	block.Release()
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
}

// TestWaits: who has to wait for others is told of, with what for and how long; who need not is not. Fault 26.
func TestWaits(t *testing.T) {
	reg := newRegistry()
	base := reg.layer(t, "gzip", tree.File("f", "x"))
	extracted := func(t *testing.T, env *testutil.Env) (tops []cache.ImmutableRef) { // two records, of which a merge can be made
		for range 2 {
			tops = append(tops, finalized(t, env, nil, fileIn(t, "f", "x")))
		}
		return tops
	}
	for pool, scene := range map[string]func(t *testing.T, env *testutil.Env, w *waits) (id string, refs []cache.ImmutableRef){
		cache.PoolRecord: func(t *testing.T, env *testutil.Env, w *waits) (string, []cache.ImmutableRef) {
			imm := testutil.MakeLayer(t, env, nil, nil)
			id := mutableID(t, env, imm)
			finalize := func() error { return imm.Finalize(ctx) }
			w.both(t, env, fault.Match{Op: fault.OpSnapshotCommit}, finalize, finalize)
			return id, []cache.ImmutableRef{imm}
		},
		cache.PoolLayer: func(t *testing.T, env *testutil.Env, w *waits) (string, []cache.ImmutableRef) {
			refs := make(chan cache.ImmutableRef, 2)
			get := func() error {
				ref, err := env.Manager.GetByBlob(ctx, base, nil, reg.handlers(base))
				refs <- ref
				return err
			}
			w.both(t, env, fault.Match{Op: fault.OpLeaseCreate}, get, get)
			return "", []cache.ImmutableRef{<-refs, <-refs}
		},
		cache.PoolTree: func(t *testing.T, env *testutil.Env, w *waits) (string, []cache.ImmutableRef) {
			refs := extracted(t, env)
			var extract []func() error
			for range 2 {
				merge, err := env.Manager.Merge(ctx, refs[:2], nil)
				require.NoError(t, err)
				refs = append(refs, merge)
				extract = append(extract, func() error { return merge.Extract(ctx, nil) })
			}
			w.both(t, env, fault.Match{Op: fault.OpSnapshotCommit}, extract[0], extract[1])
			return refs[3].ID(), refs
		},
		cache.PoolPrune: func(t *testing.T, env *testutil.Env, w *waits) (string, []cache.ImmutableRef) {
			run := func() error { return env.Manager.Prune(ctx, nil, usage.PruneInfo{All: true}) }
			w.both(t, env, fault.Match{Op: fault.OpGarbageCollect}, run, run)
			return "", nil
		},
	} {
		t.Run(pool, func(t *testing.T) {
			w := &waits{begun: make(chan cache.Event, 1)}
			env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = w }))
			id, refs := scene(t, env, w)
			require.Equal(t, []cache.Event{{Kind: cache.EventWait, ID: id, Reason: pool, Duration: 3 * time.Second, Digest: digestIf(pool == cache.PoolLayer, base)}}, w.waited())
			require.NoError(t, cache.RefList(refs).Release(ctx))
		})
	}
}

func digestIf(is bool, desc ocispecs.Descriptor) digest.Digest {
	if is {
		return desc.Digest
	}
	return ""
}

// TestWaitsForAPlace: transfers from one origin wait for a place; one that gives up says why.
func TestWaitsForAPlace(t *testing.T) {
	w := &waits{begun: make(chan cache.Event, 100)}
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = w }))
	reg := newRegistry()
	const places = 4 // transfers from one origin
	open := make(chan struct{})
	inside := make(chan struct{}, places+2)
	reg.disturb(func(ctx context.Context, _ digest.Digest) error {
		inside <- struct{}{}
		<-open
		return nil
	}, nil)
	var wg sync.WaitGroup
	var refs cache.RefList
	extract := func(ctx context.Context, i int) error {
		ref := byBlob(t, env, reg, reg.layer(t, "gzip", tree.File("f", string(rune('a'+i)))), nil, reg.allHandlers())
		refs = append(refs, ref)
		result := make(chan error, 1)
		wg.Go(func() { result <- ref.Extract(ctx, nil) })
		if i < places {
			<-inside
			return nil
		}
		return <-result
	}
	for i := range places {
		require.NoError(t, extract(ctx, i))
	}
	require.Empty(t, w.waited())
	short, giveUp := context.WithCancelCause(ctx)
	why := errors.New("no more interest")
	go func() {
		<-w.begun
		env.Clock.Advance(time.Second)
		giveUp(why)
	}()
	require.ErrorIs(t, extract(short, places), why)
	require.Eventually(t, func() bool { return len(waitsOf(&w.recorder)) == 1 }, 10*time.Second, time.Millisecond, "the transfer ends by itself")
	ev := w.waited()[0]
	require.Equal(t, [3]string{cache.PoolPull, "registry.test/image", refs[places].ID()}, [3]string{ev.Reason, ev.Source, ev.ID})
	require.Equal(t, time.Second, ev.Duration)
	require.ErrorIs(t, ev.Err, why)

	go func() {
		<-w.begun
		env.Clock.Advance(time.Minute)
		close(open)
	}()
	require.NoError(t, extract(ctx, places+1))
	wg.Wait()
	last := w.waited()
	require.Len(t, last, 1)
	require.NoError(t, last[0].Err)
	require.Equal(t, time.Minute, last[0].Duration)
	require.NoError(t, refs.Release(ctx))
}

// TestWaitsForAProcessor: layers that are unpacked and blobs that are made wait for each other when there are enough of them.
func TestWaitsForAProcessor(t *testing.T) {
	reg := newRegistry()
	for pool, scene := range map[string]struct {
		places int
		at     string
		make   func(t *testing.T, env *testutil.Env, i int) (ref cache.ImmutableRef, run func() error)
	}{
		cache.PoolUnpack: {runtime.GOMAXPROCS(0) + 2, fault.OpApply, func(t *testing.T, env *testutil.Env, i int) (cache.ImmutableRef, func() error) {
			ref := byBlob(t, env, reg, reg.layer(t, "gzip", tree.File("f", strconv.Itoa(i))), nil)
			return ref, func() error { return ref.Extract(ctx, nil) }
		}},
		cache.PoolPack: {runtime.GOMAXPROCS(0) + 1, fault.OpContentWriter, func(t *testing.T, env *testutil.Env, i int) (cache.ImmutableRef, func() error) {
			ref := finalized(t, env, nil, fileIn(t, "f", strconv.Itoa(i)))
			return ref, func() error {
				_, err := ref.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
				return err
			}
		}},
	} {
		t.Run(pool, func(t *testing.T) {
			w := &waits{begun: make(chan cache.Event, 100)}
			env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = w }))
			var refs cache.RefList
			var runs []func() error
			for i := range scene.places + 1 {
				ref, run := scene.make(t, env, i)
				refs, runs = append(refs, ref), append(runs, run)
			}
			w.take()
			inside, open := make(chan struct{}, 100), make(chan struct{})
			env.Faults.Inject(fault.Match{Op: scene.at, When: fault.Before}, func(context.Context, fault.Point) error {
				inside <- struct{}{}
				<-open
				return nil
			})
			errs := make(chan error, len(runs))
			for i, run := range runs {
				go func() { errs <- run() }()
				if i < scene.places {
					<-inside
				}
			}
			ev := <-w.begun
			require.Equal(t, [2]string{pool, refs[scene.places].ID()}, [2]string{ev.Reason, ev.ID})
			env.Clock.Advance(time.Hour)
			close(open)
			for range runs {
				require.NoError(t, <-errs)
			}
			waited := w.waited()
			require.Len(t, waited, 1)
			require.Equal(t, [2]string{pool, refs[scene.places].ID()}, [2]string{waited[0].Reason, waited[0].ID})
			require.Equal(t, time.Hour, waited[0].Duration)
			require.NoError(t, refs.Release(ctx))
		})
	}
}

func waitsOf(r *recorder) (out []cache.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ev := range r.events {
		if ev.Kind == cache.EventWait {
			out = append(out, ev)
		}
	}
	return out
}

// TestWhoFetched: of those who wait for one transfer, one says that it was fetched, so that its bytes are counted once, though the one who began it has
// left. Quirk Q37, Q52.
func TestWhoFetched(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	reg := newRegistry()
	desc := reg.layer(t, "gzip", tree.File("f", "x"))
	inside, open := make(chan struct{}), make(chan struct{})
	reg.disturb(func(context.Context, digest.Digest) error {
		close(inside)
		<-open
		return nil
	}, nil)
	ref := byBlob(t, env, reg, desc, nil)
	remotes, err := ref.GetRemotes(ctx, false, remote.RefConfig{}, false, nil)
	require.NoError(t, err)
	r.take()
	read := func(ctx context.Context) error {
		_, err := content.ReadBlob(ctx, remotes[0].Provider, desc)
		return err
	}
	impatient, leave := context.WithCancel(ctx)
	errs := make(chan error, 3)
	go func() { errs <- read(impatient) }()
	<-inside
	for range 2 {
		joined := &joining{Context: ctx, asked: make(chan struct{})}
		go func() { errs <- read(joined) }()
		<-joined.asked
	}
	leave()
	require.ErrorIs(t, <-errs, context.Canceled)
	close(open)
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	reasons := map[string]int{}
	for _, ev := range r.take() {
		require.Equal(t, cache.EventPull, ev.Kind)
		require.Equal(t, desc.Digest, ev.Digest)
		require.Equal(t, desc.Size, ev.Size)
		if ev.Err == nil {
			reasons[ev.Reason]++
		}
	}
	require.Equal(t, map[string]int{cache.ReasonFetched: 1, cache.ReasonShared: 1}, reasons)
	release(t, ref)
}
