package registry

import (
	"context"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// rig is a cache under test and the proxy that it pulls through.
type rig struct {
	*testutil.Env
	*front
	t       testing.TB
	overlay bool
}

// onEach runs a test on the native snapshotter, which needs no privilege, and on overlayfs.
func onEach(t *testing.T, fn func(t *testing.T, r *rig)) { onSome(t, true, fn) }

// onSome leaves overlayfs out if it makes no difference, and a test takes long.
func onSome(t *testing.T, overlay bool, fn func(t *testing.T, r *rig)) {
	t.Run("native", func(t *testing.T) { fn(t, newRig(t, false)) })
	if !overlay {
		return
	}
	t.Run("overlayfs", func(t *testing.T) {
		need.Overlay(t)
		fn(t, newRig(t, true))
	})
}

// newRig opens a cache. The proxy is first to come and last to go, so that its goroutines are not taken for the cache's.
func newRig(t testing.TB, overlay bool) *rig {
	t.Helper()
	var opts []testutil.Option
	if overlay {
		opts = append(opts, testutil.Overlay())
	}
	f := newFront(t)
	return &rig{front: f, Env: testutil.New(t, opts...), t: t, overlay: overlay}
}

// get returns a ref to the image's topmost layer; those to the others are released.
func (r *remoteImage) get(ctx context.Context, m cache.Accessor, opts ...cache.RefOption) (top cache.ImmutableRef, err error) {
	opts = append(slices.Clone(opts), r.handlers(), cache.WithImageRef(r.ref))
	for _, desc := range r.descs {
		ref, err := m.GetByBlob(ctx, desc, top, opts...)
		if top != nil {
			if rerr := top.Release(ctx); err == nil {
				err = rerr
			}
		}
		if err != nil {
			return nil, err
		}
		top = ref
	}
	return top, nil
}

func (r *rig) get(remote *remoteImage, opts ...cache.RefOption) cache.ImmutableRef {
	r.t.Helper()
	ref, err := remote.get(context.Background(), r.Manager, opts...)
	require.NoError(r.t, err)
	return ref
}

// requireTree compares what a ref shows with what it should.
func (r *rig) requireTree(want tree.Tree, ref cache.Mountable) {
	r.t.Helper()
	require.NoError(r.t, r.compare(want, ref))
}

// compare is requireTree for other goroutines than the test's.
func (r *rig) compare(want tree.Tree, ref cache.Mountable) (err error) {
	m, err := ref.Mount(context.Background(), true, nil)
	if err != nil {
		return err
	}
	mounter := snapshot.LocalMounter(m)
	dir, err := mounter.Mount()
	if err != nil {
		return err
	}
	defer func() {
		if uerr := mounter.Unmount(); err == nil {
			err = uerr
		}
	}()
	got, err := tree.Read(dir)
	if err != nil {
		return err
	}
	if diffs := diffTrees(want, got, r.overlay); len(diffs) > 0 {
		return errors.Errorf("the trees differ:\n%s", strings.Join(diffs, "\n"))
	}
	return nil
}

// requireUntouched makes sure that nothing was fetched and no snapshot made so far.
func (r *rig) requireUntouched() {
	r.t.Helper()
	require.Zero(r.t, r.requests(), "nothing is asked of the registry")
	require.Zero(r.t, r.Faults.Count("snapshots.Prepare"), "no snapshot is made")
	require.Empty(r.t, r.snapshots())
	require.Empty(r.t, r.blobDigests())
}

// release releases refs.
func (r *rig) release(refs ...cache.Ref) {
	r.t.Helper()
	for _, ref := range refs {
		require.NoError(r.t, ref.Release(context.Background()))
	}
}

// gc runs the backend's garbage collection.
func (r *rig) gc() {
	r.t.Helper()
	require.NoError(r.t, r.GC(context.Background()))
}

// snapshots lists the keys of all snapshots.
func (r *rig) snapshots() (keys []string) {
	r.t.Helper()
	require.NoError(r.t, r.Parts.Snapshotter.Walk(context.Background(), func(_ context.Context, info snapshots.Info) error {
		keys = append(keys, info.Name)
		return nil
	}))
	return keys
}

// blobDigests lists the blobs in the content store.
func (r *rig) blobDigests() (found []digest.Digest) {
	r.t.Helper()
	require.NoError(r.t, r.Parts.ContentStore.Walk(context.Background(), func(info content.Info) error {
		found = append(found, info.Digest)
		return nil
	}))
	return found
}

// local tells whether a blob is in the content store.
func (r *rig) local(d digest.Digest) bool {
	r.t.Helper()
	_, err := r.Parts.ContentStore.Info(context.Background(), d)
	if errdefs.IsNotFound(err) {
		return false
	}
	require.NoError(r.t, err)
	return true
}

// requireTidy makes sure that no operation leaves anything that it worked with: snapshots that were to be extracted into, temporary
// leases. Of an operation whose callers have all gone the rest may still be under way.
func (r *rig) requireTidy() {
	r.t.Helper()
	var left []string
	require.Eventually(r.t, func() bool {
		left = r.leftovers()
		return len(left) == 0
	}, deadline, tick, "what is left: %v", &left)
}

func (r *rig) leftovers() (left []string) {
	for _, key := range r.snapshots() {
		if strings.HasPrefix(key, "extract-") {
			left = append(left, "snapshot "+key)
		}
	}
	ls, err := r.Parts.LeaseManager.List(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	for _, l := range ls {
		// Views belong to refs that are held.
		if _, temporary := l.Labels["buildkit/lease.temporary"]; temporary && !strings.HasSuffix(l.ID, "-view") {
			left = append(left, "lease "+l.ID)
		}
	}
	return left
}

// requireEmpty prunes everything, and makes sure that nothing is left on disk (scenario S-6).
func (r *rig) requireEmpty() {
	r.t.Helper()
	require.NoError(r.t, r.Manager.Prune(context.Background(), nil, usage.PruneInfo{All: true}))
	r.gc()
	require.Empty(r.t, r.snapshots())
	require.Empty(r.t, r.blobDigests())
	inUse, idle := testutil.Usage(r.t, r.Env)
	require.Zero(r.t, inUse+idle)
}

// collectAlways runs the backend's garbage collection over and over, once after each call that the cache makes to it, as
// far as they do not come at the same time. stop ends that.
func (r *rig) collectAlways() (stop func()) {
	nudge, done := make(chan struct{}, 1), make(chan struct{})
	var wg sync.WaitGroup
	runs := 0
	wg.Go(func() {
		for {
			select {
			case <-nudge:
				if err := r.GC(context.Background()); err != nil {
					r.t.Errorf("garbage collection: %v", err)
				}
				runs++
			case <-done:
				return
			}
		}
	})
	var ended sync.Once
	r.Faults.OnPoint(func(p fault.Point) {
		if p.When == fault.After {
			select {
			case nudge <- struct{}{}:
			default:
			}
		}
	})
	return func() {
		ended.Do(func() {
			close(done)
			wg.Wait()
			require.Greater(r.t, runs, 1, "collections hardly ran")
		})
	}
}

// names are those in an archive, as FileList gives them.
func (l layer) names(t testing.TB) (names []string) {
	t.Helper()
	for hdr := range headers(t, l.tar) {
		names = append(names, path.Clean(hdr.Name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func pruneAll(ctx context.Context, m cache.Controller) error {
	return m.Prune(ctx, nil, usage.PruneInfo{All: true})
}

// requireLayerError makes sure that an error is of a layer, and says so in words, too.
func requireLayerError(t testing.TB, err error) *cache.LayerError {
	t.Helper()
	var le *cache.LayerError
	require.ErrorAs(t, err, &le)
	require.NotEmpty(t, le.Record)
	require.NoError(t, le.Digest.Validate())
	require.ErrorContains(t, err, le.Record)
	require.ErrorContains(t, err, le.Digest.String())
	return le
}
