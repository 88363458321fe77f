package local

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/testutil/tree"
)

// TestRebase: a layer that was unpacked before its parent was there is, once committed onto it, what it would have been on top of it:
// whiteout, opaque directory and the parent's files, by content. A Commit that is taken back, because its transaction failed or its process
// died, leaves an active snapshot without a parent, as it was (design 5, 6; spec EXT-6, EXT-7).
func TestRebase(t *testing.T) {
	needOverlayfs(t)
	commit := func(p *Parts) func(context.Context) error {
		return func(ctx context.Context) error {
			return p.Snapshotter.Commit(ctx, "top", "active", snapshots.WithParent("base"))
		}
	}
	for name, before := range map[string]func(t *testing.T, p *Parts){
		"at once": func(*testing.T, *Parts) {},
		"transaction failed": func(t *testing.T, p *Parts) {
			err := p.Transactions.Update(t.Context(), func(ctx context.Context) error {
				require.NoError(t, commit(p)(ctx))
				return errBoom
			})
			require.Same(t, errBoom, err)
		},
		"process died": func(t *testing.T, p *Parts) {
			err := p.db.Update(func(tx *bolt.Tx) error {
				require.NoError(t, commit(p)(boltutil.WithTransaction(t.Context(), tx)))
				return errBoom
			})
			require.Same(t, errBoom, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := openParts(t, dir, Options{Snapshotter: Overlayfs})
			base := layerBlob(t, p, tree.File("kept", "base"), tree.File("gone", "base"), tree.Dir("d"), tree.File("d/low", "base"), tree.Dir("e"), tree.File("e/low", "base"))
			top := layerBlob(t, p, tree.Whiteout("gone"), tree.Dir("d"), tree.Opaque("d"), tree.File("d/new", "top"), tree.Dir("e"), tree.File("e/new", "top"))
			lease(t, p, "base", "base-active")
			lease(t, p, "top", "active")
			unpackActive(t, p, "base-active", base)
			unpackActive(t, p, "active", top)
			require.NoError(t, p.Snapshotter.Commit(t.Context(), "base", "base-active"))

			before(t, p)
			if name != "at once" {
				requireActiveRoot(t, p)
				require.NoError(t, p.Close())
				p = openParts(t, dir, Options{})
				_, err := p.GarbageCollect(t.Context())
				require.NoError(t, err)
				requireActiveRoot(t, p)
			}
			require.NoError(t, p.Transactions.Update(t.Context(), commit(p)))
			requireRebased(t, p)

			// The parent lives by its child.
			require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: "base"}))
			_, err := p.GarbageCollect(t.Context())
			require.NoError(t, err)
			requireRebased(t, p)
			require.Len(t, snapshotDirs(t, p), 2)

			// And both go with the last lease, in whatever order the links between them are in.
			require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: "top"}))
			_, err = p.GarbageCollect(t.Context())
			require.NoError(t, err)
			require.Empty(t, snapshotDirs(t, p))
		})
	}
}

// unpackActive prepares a snapshot without a parent and unpacks a layer in it.
func unpackActive(t *testing.T, p *Parts, key string, desc ocispecs.Descriptor) {
	t.Helper()
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), key, ""))
	got, err := p.Applier.ApplyDetached(t.Context(), desc, upperDir(t, p, key))
	require.NoError(t, err)
	require.Equal(t, desc.Digest, got.Digest)
}

// requireActiveRoot: "active" is what it was before its Commit, with a bind mount on the directory that holds the layer.
func requireActiveRoot(t *testing.T, p *Parts) {
	t.Helper()
	info, err := p.Snapshotter.Stat(t.Context(), "active")
	require.NoError(t, err)
	require.Equal(t, snapshots.KindActive, info.Kind)
	require.Empty(t, info.Parent)
	require.Empty(t, info.Labels)
	_, err = p.Snapshotter.Stat(t.Context(), "top")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	m, err := p.Snapshotter.Mounts(t.Context(), "active")
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	defer func() { require.NoError(t, release()) }()
	require.Len(t, mounts, 1)
	require.Equal(t, "bind", mounts[0].Type, "an overlay would have a parent")
	data, err := os.ReadFile(filepath.Join(mounts[0].Source, "d/new"))
	require.NoError(t, err)
	require.Equal(t, "top", string(data))
}

func requireRebased(t *testing.T, p *Parts) {
	t.Helper()
	info, err := p.Snapshotter.Stat(t.Context(), "top")
	require.NoError(t, err)
	require.Equal(t, "base", info.Parent)
	require.Empty(t, info.Labels, "the marks are not shown")
	want := t.TempDir()
	require.NoError(t, tree.Write(want, tree.File("kept", "base"), tree.File("d/new", "top"), tree.File("e/low", "base"), tree.File("e/new", "top")))
	wantTree, err := tree.Read(want)
	require.NoError(t, err)
	require.Empty(t, tree.Diff(wantTree, readView(t, p, "top"), tree.Times, tree.Root))
}
