//go:build unix

package need_test

import (
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/need"
)

// skipped runs fn as a subtest and reports whether it was skipped.
func skipped(t *testing.T, fn func(t testing.TB)) (skip bool) {
	t.Run("probe", func(t *testing.T) {
		defer func() { skip = t.Skipped() }()
		fn(t)
	})
	return skip
}

// TestNeeds: what is promised is there when the test goes on, and root is not skipped.
func TestNeeds(t *testing.T) {
	root := os.Geteuid() == 0
	require.Equal(t, !root, skipped(t, need.Root))
	require.Equal(t, root, skipped(t, need.Unprivileged))
	if !root {
		require.True(t, skipped(t, need.Mount))
		require.True(t, skipped(t, need.Overlay))
	}
	dir := t.TempDir()
	skipped(t, func(t testing.TB) { need.Xattr(t, dir) })
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestMountWorks: after Mount has let a test pass, it can mount; no probe leaves a mount behind.
func TestMountWorks(t *testing.T) {
	need.Mount(t)
	need.Overlay(t)
	dir := t.TempDir()
	m := mount.Mount{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}
	require.NoError(t, m.Mount(dir))
	require.NoError(t, mount.UnmountAll(dir, 0))
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(os.TempDir()))
	require.NoError(t, err)
	for _, m := range mounts {
		require.NotContains(t, m.Mountpoint, "TestMountWorks")
	}
}
