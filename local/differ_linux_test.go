package local

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/winlayers"
	"github.com/layercache/cache/testutil/tree"
)

// packLayer packs what a snapshot has beside its parent, as the manager does.
func packLayer(ctx context.Context, t *testing.T, p *Parts, name, parent string) ocispecs.Descriptor {
	t.Helper()
	var sides [2][]mount.Mount
	for i, key := range []string{parent, name} {
		if key == "" {
			continue
		}
		view := key + " to pack " + name
		lease(t, p, view)
		m, err := p.Snapshotter.View(leases.WithLease(t.Context(), view), view, key)
		require.NoError(t, err)
		mounts, release, err := m.Mount()
		require.NoError(t, err)
		sides[i] = mounts
		defer func() {
			require.NoError(t, release())
			require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: view}))
		}()
	}
	desc, err := p.Differ.Compare(ctx, sides[0], sides[1], diff.WithReference(name))
	require.NoError(t, err)
	return desc
}

// TestDiffer: layers are packed through the parts as they are wired, on every snapshotter and with whatever rights, and make the same trees again
// (design 6b; spec OVL-1, BLOB-7).
func TestDiffer(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		require.NoError(t, unpackOn(t, p, "base", "", layerBlob(t, p, tree.File("kept", "base"), tree.File("gone", "base"), tree.Dir("d"), tree.File("d/low", "base"))))
		require.NoError(t, unpackOn(t, p, "top", "base", layerBlob(t, p, tree.Whiteout("gone"), tree.Dir("d"), tree.Opaque("d"), tree.File("d/new", "top"))))

		lease(t, p, "packed")
		ctx := leases.WithLease(t.Context(), "packed")
		base, top := packLayer(ctx, t, p, "base", ""), packLayer(ctx, t, p, "top", "base")
		again := openParts(t, t.TempDir(), Options{Snapshotter: Native})
		for _, l := range []struct {
			name, parent string
			desc         ocispecs.Descriptor
		}{{"base", "", base}, {"top", "base", top}} {
			require.Equal(t, ocispecs.MediaTypeImageLayerGzip, l.desc.MediaType)
			info, err := p.ContentStore.Info(t.Context(), l.desc.Digest)
			require.NoError(t, err)
			r, err := p.ContentStore.ReaderAt(t.Context(), l.desc)
			require.NoError(t, err)
			require.NoError(t, content.WriteBlob(t.Context(), again.ContentStore, l.name, content.NewReader(r), l.desc))
			require.NoError(t, r.Close())
			diffID, err := unpackedDigest(t, again, l.name, l.parent, l.desc)
			require.NoError(t, err)
			require.Equal(t, info.Labels["containerd.io/uncompressed"], diffID.String())
		}
		requireHolds(t, again, "base", tree.File("kept", "base"), tree.File("gone", "base"), tree.File("d/low", "base"))
		requireHolds(t, again, "top", tree.File("kept", "base"), tree.File("d/new", "top"))
	})
}

// TestWindowsLayers: a record with the layer type "windows" is unpacked as such without a hook of the embedder's, and what the differ packs in the
// hook's context is such a layer (spec EXT-11, WIN-1, BLOB-5).
func TestWindowsLayers(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		opts.NoBackgroundGC = true // the blob has no lease at first
		c := openCache(t, t.TempDir(), opts)
		ctx := leased(t, c.Parts)
		desc := layerBlob(t, c.Parts, tree.Dir("Hives"), tree.File("Hives/system", "registry"), tree.Dir("Files"), tree.File("Files/a", "x"),
			tree.Hardlink("Files/b", "Files/a"), tree.File("UtilityVM/x", "x"))
		desc.Annotations = map[string]string{"containerd.io/uncompressed": desc.Digest.String()}
		ref, err := c.GetByBlob(ctx, desc, nil)
		require.NoError(t, err)
		require.NoError(t, ref.SetLayerType(winlayers.LayerType))
		require.NoError(t, ref.Extract(ctx, nil))
		m, err := ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		mounts, release, err := m.Mount()
		require.NoError(t, err)
		want := []tree.Entry{tree.File("a", "x"), tree.Hardlink("b", "a")}
		requireMounts(t, mounts, want...)

		packed, err := c.Parts.Differ.Compare(c.Parts.ManagerOpt().Hooks.LayerContext(ctx, winlayers.LayerType), nil, mounts)
		require.NoError(t, err)
		require.NoError(t, release())
		info, err := c.Parts.ContentStore.Info(ctx, packed.Digest)
		require.NoError(t, err)
		packed.Annotations = map[string]string{"containerd.io/uncompressed": info.Labels["containerd.io/uncompressed"]}
		again, err := c.GetByBlob(ctx, packed, nil)
		require.NoError(t, err)
		require.NoError(t, again.SetLayerType(winlayers.LayerType))
		require.NoError(t, again.Extract(ctx, nil))
		m, err = again.Mount(ctx, true, nil)
		require.NoError(t, err)
		mounts, release, err = m.Mount()
		require.NoError(t, err)
		requireMounts(t, mounts, want...)
		require.NoError(t, release())
		require.NoError(t, ref.Release(ctx))
		require.NoError(t, again.Release(ctx))
	})
}

func requireMounts(t *testing.T, mounts []mount.Mount, entries ...tree.Entry) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	want, err := tree.Read(dir)
	require.NoError(t, err)
	require.Empty(t, tree.Diff(want, readMounts(t, mounts), tree.Times, tree.Root, tree.Owners))
}

func readMounts(t *testing.T, mounts []mount.Mount) tree.Tree {
	t.Helper()
	lm := snapshot.LocalMounterWithMounts(mounts)
	dir, err := lm.Mount()
	require.NoError(t, err)
	got, err := tree.Read(dir)
	require.NoError(t, err)
	require.NoError(t, lm.Unmount())
	return got
}

// leased makes a lease that lasts as long as the test.
func leased(t *testing.T, p *Parts) context.Context {
	t.Helper()
	require.NoError(t, addLease(t.Context(), p, "test", "nothing"))
	return leases.WithLease(t.Context(), "test")
}
