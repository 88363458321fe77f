package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"
)

// prepared makes an active snapshot and returns the directory that it is.
func prepared(t *testing.T, p *Parts, key string) string {
	t.Helper()
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), key, ""))
	return sourceOf(t, p, key)
}

func sourceOf(t *testing.T, p *Parts, key string) string {
	t.Helper()
	m, err := p.Snapshotter.Mounts(t.Context(), key)
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, release()) })
	require.Len(t, mounts, 1)
	return mounts[0].Source
}

// A process that is killed while a snapshot is made, after its directory is in place and before that is
// committed, is in nobody's way: the next snapshot gets the same number, and nothing of what was there.
func TestHalfMadeSnapshot(t *testing.T) { // fault 29
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		trees := filepath.Join(dir, snapshotsDir, "snapshots")
		leave := func(number string) {
			t.Helper()
			for _, sub := range []string{"fs", "work"} {
				require.NoError(t, os.MkdirAll(filepath.Join(trees, number, sub), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(trees, number, sub, "junk"), nil, 0o600))
			}
		}
		leave("1") // killed at the very first snapshot
		p, err := OpenParts(t.Context(), dir, opts)
		require.NoError(t, err)
		_, err = p.LeaseManager.Create(t.Context(), leases.WithID("test"))
		require.NoError(t, err)
		first := prepared(t, p, "first")
		require.Contains(t, first, filepath.Join(trees, "1"))
		require.NoError(t, p.LeaseManager.AddResource(t.Context(), leases.Lease{ID: "test"}, leases.Resource{ID: "first", Type: "snapshots/" + p.SnapshotterName}))
		require.NoError(t, os.WriteFile(filepath.Join(first, "kept"), nil, 0o600))
		require.NoError(t, p.Close())

		leave("2")
		leave("new-1234") // killed before it had its number
		p = openParts(t, dir, opts)
		require.NoDirExists(t, filepath.Join(trees, "new-1234"))
		second := prepared(t, p, "second")
		require.Contains(t, second, filepath.Join(trees, "2"))
		entries, err := os.ReadDir(second)
		require.NoError(t, err)
		require.Empty(t, entries)
		require.FileExists(t, filepath.Join(sourceOf(t, p, "first"), "kept"))
		names, err := os.ReadDir(trees)
		require.NoError(t, err)
		require.Len(t, names, 2, "nothing else is left")
	})
}
