package local

import (
	"bytes"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil/tree"
)

// unpackOn unpacks an uncompressed layer on top of a parent, as the manager does, and commits it.
func unpackOn(t *testing.T, p *Parts, name, parent string, desc ocispecs.Descriptor) error {
	t.Helper()
	got, err := unpackedDigest(t, p, name, parent, desc)
	if err == nil {
		require.Equal(t, desc.Digest, got)
	}
	return err
}

// unpackedDigest unpacks any layer so, and returns the digest of its archive.
func unpackedDigest(t *testing.T, p *Parts, name, parent string, desc ocispecs.Descriptor) (digest.Digest, error) {
	t.Helper()
	lease(t, p, name, name+"-active")
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), name+"-active", parent))
	m, err := p.Snapshotter.Mounts(t.Context(), name+"-active")
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	defer func() { require.NoError(t, release()) }()
	got, err := p.Applier.Apply(t.Context(), desc, mounts)
	if err != nil {
		return "", err
	}
	return got.Digest, p.Snapshotter.Commit(t.Context(), name, name+"-active")
}

// TestApplier: a chain of layers unpacks through the parts as they are wired, on every snapshotter and with whatever rights
// (spec EXT-6, EXT-7; design 6b).
func TestApplier(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		require.NoError(t, unpackOn(t, p, "base", "", layerBlob(t, p,
			tree.File("kept", "base"), tree.File("gone", "base"), tree.Dir("d"), tree.File("d/low", "base"), tree.Whiteout("nothing"))))
		require.NoError(t, unpackOn(t, p, "top", "base", layerBlob(t, p,
			tree.Whiteout("gone"), tree.Dir("d"), tree.Opaque("d"), tree.File("d/new", "top"))))
		require.NoError(t, unpackOn(t, p, "implied", "top", layerBlob(t, p, tree.File("d/more", "implied"))))
		requireHolds(t, p, "base", tree.File("kept", "base"), tree.File("gone", "base"), tree.File("d/low", "base"))
		requireHolds(t, p, "top", tree.File("kept", "base"), tree.File("d/new", "top"))
		requireHolds(t, p, "implied", tree.File("kept", "base"), tree.File("d/new", "top"), tree.File("d/more", "implied"))
	})
}

func requireHolds(t *testing.T, p *Parts, name string, entries ...tree.Entry) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	want, err := tree.Read(dir)
	require.NoError(t, err)
	require.Empty(t, tree.Diff(want, readView(t, p, name), tree.Times, tree.Root, tree.Owners), "snapshot %s", name)
}

// TestSquashOwnersOption: the option reaches the applier; with it everybody can unpack a layer with the files of others, devices and
// directories that shut out their owner, and put a further layer on it (design 6b).
func TestSquashOwnersOption(t *testing.T) {
	foreign := []tree.Entry{
		tree.Dir("ro", tree.Mode(0o555)), tree.File("ro/f", "x", tree.Mode(0)), tree.Char("null", 1, 3), tree.File("others", "x"),
	}
	for i := range foreign {
		foreign[i] = withOwner(foreign[i], 12345, 54321)
	}
	data, err := tree.Tar(foreign...)
	require.NoError(t, err)
	for _, squash := range []bool{false, true} {
		p := openParts(t, t.TempDir(), Options{Snapshotter: Native, SquashOwners: squash})
		err := unpackOn(t, p, "base", "", writeBlob(t, p, data))
		if !squash {
			if os.Geteuid() != 0 {
				var owner *apply.OwnerError
				require.ErrorAs(t, err, &owner)
				require.True(t, errdefs.IsPermissionDenied(err))
			} else {
				require.NoError(t, err)
			}
			continue
		}
		require.NoError(t, err)
		require.NoError(t, unpackOn(t, p, "top", "base", layerBlob(t, p, tree.File("ro/g", "y"))))
		got := readView(t, p, "top")
		require.ElementsMatch(t, []string{".", "ro", "ro/f", "ro/g", "others"}, paths(got))
		for _, e := range got {
			require.Equal(t, []int{os.Geteuid(), os.Getegid()}, []int{e.UID, e.GID}, e.Path)
		}
	}
}

func withOwner(e tree.Entry, uid, gid int) tree.Entry {
	e.UID, e.GID = uid, gid
	return e
}

func paths(got tree.Tree) (paths []string) {
	for path := range got {
		paths = append(paths, path)
	}
	return paths
}

// layerBlob puts an uncompressed layer, of the test's own files, into the content store.
func layerBlob(t *testing.T, p *Parts, entries ...tree.Entry) ocispecs.Descriptor {
	t.Helper()
	for i := range entries {
		entries[i] = withOwner(entries[i], os.Geteuid(), os.Getegid())
	}
	data, err := tree.Tar(entries...)
	require.NoError(t, err)
	return writeBlob(t, p, data)
}

func writeBlob(t *testing.T, p *Parts, data []byte) ocispecs.Descriptor {
	t.Helper()
	desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(t, content.WriteBlob(t.Context(), p.ContentStore, desc.Digest.String(), bytes.NewReader(data), desc))
	return desc
}

// lease makes a lease on the snapshots, none of which need exist.
func lease(t *testing.T, p *Parts, id string, names ...string) {
	t.Helper()
	require.NoError(t, addLease(t.Context(), p, id, id))
	for _, name := range names {
		require.NoError(t, p.LeaseManager.AddResource(t.Context(), leases.Lease{ID: id}, snapshotResource(p, name)))
	}
}

// readView reads what a committed snapshot holds.
func readView(t *testing.T, p *Parts, name string) tree.Tree {
	t.Helper()
	lease(t, p, name+"-view")
	m, err := p.Snapshotter.View(t.Context(), name+"-view", name)
	require.NoError(t, err)
	lm := snapshot.LocalMounter(m)
	dir, err := lm.Mount()
	require.NoError(t, err)
	got, err := tree.Read(dir)
	require.NoError(t, err)
	require.NoError(t, lm.Unmount())
	require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: name + "-view"}))
	return got
}
