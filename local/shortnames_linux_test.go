package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/need"
)

// TestDeepChainOfLongNames: the most layers that overlayfs takes mount by the mounts handed out, with numbers of six digits, which would
// not fit into the options of a mount; what is shorter is mounted by the names it always had. One layer more is refused as such.
func TestDeepChainOfLongNames(t *testing.T) { // fault 38
	need.Overlay(t)
	ctx, dir := context.Background(), t.TempDir()
	open := func() *Parts {
		parts, err := OpenParts(ctx, dir, Options{Snapshotter: Overlayfs})
		require.NoError(t, err)
		return parts
	}
	parts := open()
	require.NoError(t, parts.Snapshotter.Prepare(ctx, "first", ""))
	require.NoError(t, parts.Close())
	setNumber(t, filepath.Join(dir, snapshotsDir, snapshotterDB), 123456)

	parts = open()
	const most = 500
	parent := ""
	for i := range most + 1 {
		key, name := fmt.Sprintf("work-%d", i), fmt.Sprintf("layer-%d", i)
		require.NoError(t, parts.Snapshotter.Prepare(ctx, key, parent))
		if i%100 == 0 || i == most-1 {
			writeTop(t, parts, key, name)
		}
		require.NoError(t, parts.Snapshotter.Commit(ctx, name, key))
		parent = name
	}
	view := func(n int) []mount.Mount {
		m, err := parts.Snapshotter.View(ctx, fmt.Sprintf("view-%d", n), fmt.Sprintf("layer-%d", n-1))
		require.NoError(t, err)
		mounts, release, err := m.Mount()
		require.NoError(t, err)
		require.NoError(t, release())
		return mounts
	}
	for _, n := range []int{64, 128, 401, most} {
		mounts := view(n)
		require.Equal(t, n > 400, strings.Contains(strings.Join(mounts[0].Options, ","), "/"+shortDir+"/"), "%d layers", n)
		require.NoError(t, snapshot.CheckMounts(mounts))
		require.NoError(t, mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
			entries, err := os.ReadDir(root)
			require.NoError(t, err)
			require.Len(t, entries, 1+(n-1)/100+n/most)
			return nil
		}))
	}
	require.NoError(t, parts.Snapshotter.Prepare(ctx, "on top", fmt.Sprintf("layer-%d", most-1)))
	m, err := parts.Snapshotter.Mounts(ctx, "on top")
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	require.NoError(t, mount.WithTempMount(ctx, mounts, func(root string) error {
		return os.Remove(filepath.Join(root, "layer-0"))
	}))
	require.NoError(t, release())
	require.ErrorIs(t, snapshot.CheckMounts(view(most+1)), snapshot.ErrTooManyLayers)

	// Links to what is gone go with the next start, and the others stay.
	links, err := os.ReadDir(filepath.Join(dir, snapshotsDir, shortDir))
	require.NoError(t, err)
	require.Len(t, links, most+1)
	require.NoError(t, parts.Close())
	require.NoError(t, os.Symlink("../snapshots/999999/fs", filepath.Join(dir, snapshotsDir, shortDir, "lflr")))
	parts = open()
	again, err := os.ReadDir(filepath.Join(dir, snapshotsDir, shortDir))
	require.NoError(t, err)
	require.Len(t, again, len(links))
	require.NoError(t, parts.Close())
}

// writeTop puts an empty file into the directory that the snapshot key is written to.
func writeTop(t *testing.T, parts *Parts, key, name string) {
	t.Helper()
	m, err := parts.Snapshotter.Mounts(context.Background(), key)
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	dir := mounts[0].Source
	for _, o := range mounts[0].Options {
		if upper, ok := strings.CutPrefix(o, "upperdir="); ok {
			dir = upper
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	require.NoError(t, release())
}

// setNumber makes n the number of the last snapshot.
func setNumber(t *testing.T, path string, n uint64) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("v1")).Bucket([]byte("snapshots")).SetSequence(n)
	}))
	require.NoError(t, db.Close())
}
