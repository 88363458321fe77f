package daemon

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
)

// snapshotsIn lists the snapshots of a namespace.
func snapshotsIn(t testing.TB, d *Daemon, ns, sn string) []string {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), ns)
	var names []string
	require.NoError(t, d.Client().SnapshotService(sn).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}))
	return names
}

// blobsIn lists the blobs of a namespace.
func blobsIn(t testing.TB, d *Daemon, ns string) []string {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), ns)
	var names []string
	require.NoError(t, d.Client().ContentStore().Walk(ctx, func(info content.Info) error {
		names = append(names, info.Digest.String())
		return nil
	}))
	return names
}

// writeLayer makes a finalized layer with one file on parent, which may be nil.
func writeLayer(t testing.TB, m cache.Manager, parent cache.ImmutableRef, name, text string) cache.ImmutableRef {
	t.Helper()
	mut, err := m.New(t.Context(), parent, nil)
	require.NoError(t, err)
	testutil.WithMount(t, mut, false, func(root string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	})
	ref, err := mut.Commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, ref.Finalize(t.Context()))
	return ref
}
