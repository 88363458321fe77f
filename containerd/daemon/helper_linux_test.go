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
	fill(t, mut, name, text)
	ref, err := mut.Commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, ref.Finalize(t.Context()))
	return ref
}

// fill writes a file.
func fill(t testing.TB, mut cache.MutableRef, name, text string) {
	t.Helper()
	testutil.WithMount(t, mut, false, func(root string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	})
}

// leasesIn lists the leases of a namespace.
func leasesIn(t testing.TB, d *Daemon, ns string) []string {
	t.Helper()
	list, err := d.Client().LeasesService().List(namespaces.WithNamespace(t.Context(), ns))
	require.NoError(t, err)
	var ids []string
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	return ids
}
