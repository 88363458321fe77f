package daemon

import (
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// requireTree checks what a ref shows.
func requireTree(t *testing.T, ref cache.Mountable, entries ...tree.Entry) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(root string) { testutil.RequireTree(t, root, entries...) })
}

// TestOthersSurvive: what other clients have in the namespace outlives Prune of everything and a start: an image with its blob, a
// lease with a snapshot, a temporary lease (fault 10; spec INIT-11, LEASE-6).
func TestOthersSurvive(t *testing.T) {
	d := Start(t)
	dir, opts := t.TempDir(), containerd.Options{}
	client := d.Client()
	ctx := namespaces.WithNamespace(t.Context(), containerd.DefaultNamespace)
	c, err := containerd.Open(ctx, client, dir, opts)
	require.NoError(t, err)

	// The blob comes in by the cache, and somebody makes an image of it.
	var o origin
	desc := o.layer(t, tree.File("file", "content"))
	ref := o.get(t, c, desc, nil)
	require.NoError(t, ref.Extract(ctx, session.NewGroup("one")))
	_, err = client.ImageService().Create(ctx, images.Image{Name: "others/image", Target: desc})
	require.NoError(t, err)
	// Somebody builds on the cache's snapshot, and has one of his own.
	other, err := client.LeasesService().Create(ctx, leases.WithID("others"))
	require.NoError(t, err)
	octx := leases.WithLease(ctx, other.ID)
	sn := client.SnapshotService(c.Parts.SnapshotterName)
	shared := snapshotsIn(t, d, containerd.DefaultNamespace, c.Parts.SnapshotterName)
	require.Len(t, shared, 1)
	_, err = sn.Prepare(octx, "others-container", shared[0])
	require.NoError(t, err)
	_, err = client.LeasesService().Create(ctx, leases.WithID("others-temporary"), leases.WithLabel("buildkit/lease.temporary", "now"))
	require.NoError(t, err)

	for range 2 {
		require.NoError(t, ref.Release(ctx))
		require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
		require.Zero(t, c.Stats().Records)
		found, err := c.Check(ctx)
		require.NoError(t, err)
		require.Empty(t, found)
		require.NoError(t, c.Close())
		c, err = containerd.Open(ctx, client, dir, opts)
		require.NoError(t, err)

		image, err := client.ImageService().Get(ctx, "others/image")
		require.NoError(t, err)
		_, err = client.ContentStore().Info(ctx, image.Target.Digest)
		require.NoError(t, err)
		names := snapshotsIn(t, d, containerd.DefaultNamespace, c.Parts.SnapshotterName)
		require.ElementsMatch(t, []string{shared[0], "others-container"}, names)
		list, err := client.LeasesService().List(ctx)
		require.NoError(t, err)
		var ids []string
		for _, l := range list {
			ids = append(ids, l.ID)
		}
		require.ElementsMatch(t, []string{"others", "others-temporary"}, ids)
		ref = o.get(t, c, desc, nil)
	}
	require.NoError(t, ref.Release(ctx))
	require.NoError(t, c.Close())
}

// TestTwoManagers: two caches on one daemon, in one namespace and in two, pull and extract the same layer; when one of them
// deletes everything, collects garbage and is opened again, the other has what it had (fault 10, scenario S-6).
func TestTwoManagers(t *testing.T) {
	d := Start(t)
	for name, namespaces := range map[string][2]string{"one namespace": {"shared", "shared"}, "two": {"first", "second"}} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			var o origin
			base, top := o.layer(t, tree.File("base", "1")), o.layer(t, tree.File("top", "2"))
			var caches [2]*containerd.Cache
			var dirs [2]string
			var refs [2]cache.ImmutableRef
			var built [2]cache.ImmutableRef
			open := func(i int) {
				var err error
				caches[i], err = containerd.Open(ctx, d.Client(), dirs[i], containerd.Options{Namespace: namespaces[i]})
				require.NoError(t, err)
			}
			for i := range caches {
				dirs[i] = t.TempDir()
				open(i)
				below := o.get(t, caches[i], base, nil)
				refs[i] = o.get(t, caches[i], top, below)
				require.NoError(t, below.Release(ctx))
				require.NoError(t, refs[i].Extract(ctx, nil))
				built[i] = writeLayer(t, caches[i], refs[i], "built", "3")
			}
			want := []tree.Entry{tree.File("base", "1"), tree.File("top", "2")}
			for i, j := range []int{1, 0} { // i ends, j goes on
				require.NoError(t, refs[i].Release(ctx))
				require.NoError(t, built[i].Release(ctx))
				require.NoError(t, caches[i].Prune(ctx, nil, usage.PruneInfo{All: true}))
				require.Zero(t, caches[i].Stats().Records)
				require.NoError(t, caches[i].Close())
				open(i)
				requireTree(t, refs[j], want...)
				requireTree(t, built[j], append(want[:2:2], tree.File("built", "3"))...)
				found, err := caches[j].Check(ctx)
				require.NoError(t, err)
				require.Empty(t, found)
				below := o.get(t, caches[i], base, nil)
				refs[i] = o.get(t, caches[i], top, below)
				require.NoError(t, below.Release(ctx))
				requireTree(t, refs[i], want...)
				built[i] = writeLayer(t, caches[i], refs[i], "built", "3")
			}
			for i, c := range caches {
				require.NoError(t, refs[i].Release(ctx))
				require.NoError(t, built[i].Release(ctx))
				require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
				require.NoError(t, c.Close())
			}
			for _, ns := range namespaces {
				require.Empty(t, snapshotsIn(t, d, ns, "overlayfs"))
				require.Empty(t, blobsIn(t, d, ns))
			}
		})
	}
}

// TestOtherBackend: records are not opened on another daemon, namespace or snapshotter, where all their layers would seem to be lost
// (spec INIT-3); nothing is changed then, and Adopt says that it is meant.
func TestOtherBackend(t *testing.T) {
	d, other := Start(t), Start(t)
	ctx, dir := t.Context(), t.TempDir()
	c, err := containerd.Open(ctx, d.Client(), dir, containerd.Options{})
	require.NoError(t, err)
	ref := writeLayer(t, c, nil, "file", "x")
	id := ref.ID()
	require.NoError(t, ref.Release(ctx))
	require.NoError(t, c.Close())

	for what, opts := range map[string]containerd.Options{"namespace": {Namespace: "else"}, "snapshotter": {Snapshotter: "native"}} {
		_, err = containerd.Open(ctx, d.Client(), dir, opts)
		require.ErrorIs(t, err, containerd.ErrBackend, what)
	}
	_, err = containerd.Open(ctx, other.Client(), dir, containerd.Options{})
	require.ErrorIs(t, err, containerd.ErrBackend)
	_, err = containerd.Open(ctx, d.Client(), dir, containerd.Options{Snapshotter: "missing"})
	require.ErrorIs(t, err, containerd.ErrSnapshotter)

	d.Restart() // which does not make it another one
	c, err = containerd.Open(ctx, d.Client(), dir, containerd.Options{})
	require.NoError(t, err)
	ref, err = c.Get(ctx, id, nil)
	require.NoError(t, err)
	requireTree(t, ref, tree.File("file", "x"))
	require.NoError(t, ref.Release(ctx))
	require.NoError(t, c.Close())

	c, err = containerd.Open(ctx, other.Client(), dir, containerd.Options{Adopt: true})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = containerd.Open(ctx, d.Client(), dir, containerd.Options{})
	require.ErrorIs(t, err, containerd.ErrBackend)
}
