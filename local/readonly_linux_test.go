package local

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/usage"
)

// testReadOnlyMount puts a read-only mount over the directory, which stops root as well.
func testReadOnlyMount(t *testing.T) {
	if !canMount() {
		t.Skip("needs root: a read-only mount")
	}
	dir := t.TempDir()
	p := openParts(t, dir, Options{Snapshotter: Native})
	newLayer(t, p, "one", "")
	require.NoError(t, p.Close())
	require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	requireReadOnly(t, dir)
}

// Looking takes no right to write.
func TestInspectReadOnly(t *testing.T) {
	if !canMount() {
		t.Skip("needs root: a read-only mount")
	}
	dir := t.TempDir()
	c := openCache(t, dir, Options{Snapshotter: Native})
	id := makeRecord(t, c, nil, 10, false)
	require.NoError(t, c.Close())
	require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	i := inspectDir(t, dir, InspectOptions{})
	require.Contains(t, usageByID(t, func() ([]*usage.Info, error) { return i.DiskUsage(t.Context(), usage.DiskUsageInfo{}) }), id)
	require.NoError(t, i.Close())
}

// A Commit that the process did not survive is taken back in the copy, as Open does it.
func TestInspectTakesCommitBack(t *testing.T) {
	needOverlayfs(t)
	dir := t.TempDir()
	p := openParts(t, dir, Options{Snapshotter: Overlayfs})
	require.NoError(t, addLease(t.Context(), p, "l", "active"))
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), "active", ""))
	writeFile(t, p, "active", "f")
	var key string
	require.NoError(t, p.guard.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		key = info.Name
		return nil
	}))
	from := snapshots.WithLabels(map[string]string{labelFrom: key})
	require.NoError(t, p.guard.Snapshotter.Commit(t.Context(), "buildkit/99/lost", key, from))
	require.NoError(t, p.Close())
	require.NoError(t, openCache(t, dir, Options{NoBackgroundGC: true}).Close()) // makes the database of records
	untouched(t, dir, func() {
		i := inspectDir(t, dir, InspectOptions{})
		info, err := i.parts.Snapshotter.Stat(t.Context(), "active")
		require.NoError(t, err)
		require.Equal(t, snapshots.KindActive, info.Kind)
		u, err := i.parts.Snapshotter.Usage(t.Context(), "active")
		require.NoError(t, err)
		require.Positive(t, u.Size)
		require.NoError(t, i.Close())
	})
}
