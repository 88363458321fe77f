package local

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/usage"
)

// Fault 10, spec PRN-1: what somebody copied into another namespace stays there when the record that it came from is pruned and the
// backend has collected, and is gone here.
func TestAnotherNamespaceKeepsItsCopy(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		ctx := t.Context()
		c := openCache(t, t.TempDir(), opts)
		mut, err := c.New(ctx, nil, nil, cache.CachePolicyRetain)
		require.NoError(t, err)
		mountable, err := mut.Mount(ctx, false, nil)
		require.NoError(t, err)
		mounter := snapshot.LocalMounter(mountable)
		dir, err := mounter.Mount()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o600))
		require.NoError(t, mounter.Unmount())
		ref, err := mut.Commit(ctx)
		require.NoError(t, err)
		remotes, err := ref.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
		require.NoError(t, err)
		desc := remotes[0].Descriptors[0]

		other := namespaces.WithNamespace(ctx, "other")
		l, err := ctdmetadata.NewLeaseManager(c.Parts.db).Create(other, leases.WithRandomID())
		require.NoError(t, err)
		ra, err := remotes[0].Provider.ReaderAt(ctx, desc)
		require.NoError(t, err)
		theirs := c.Parts.db.ContentStore()
		require.NoError(t, content.WriteBlob(leases.WithLease(other, l.ID), theirs, "copy", content.NewReader(ra), desc))
		require.NoError(t, ra.Close())

		require.NoError(t, ref.Release(ctx))
		require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
		_, err = c.Parts.ContentStore.Info(ctx, desc.Digest)
		require.True(t, errdefs.IsNotFound(err), "%v", err)
		ra, err = theirs.ReaderAt(other, desc)
		require.NoError(t, err)
		defer ra.Close()
		data, err := io.ReadAll(content.NewReader(ra))
		require.NoError(t, err)
		require.Equal(t, desc.Digest, desc.Digest.Algorithm().FromBytes(data))
	})
}
