package snapshot_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// TestMergeInUserNS: in a user namespace that may mount, overlays with userxattr are found to work, and what hides lower directories is
// written for them (spec MRG-2, APP-4, fault 36).
func TestMergeInUserNS(t *testing.T) {
	need.Overlay(t)
	runInUserNS(t, "TestChildMergeInUserNS", diskDir(t), syscall.CLONE_NEWNS)
}

// diskDir returns a directory that is not on a tmpfs: containerd mounts overlays of that without userxattr, so that in a user namespace the kernel
// cannot even delete directories.
func diskDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	if st.Type != unix.TMPFS_MAGIC {
		return dir
	}
	dir, err := os.MkdirTemp("/var/tmp", "layercache-userns")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, unix.Statfs(dir, &st))
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("needs a directory that is not on a tmpfs")
	}
	return dir
}

// TestChildMergeInUserNS is the child of TestMergeInUserNS (spec MRG-2).
func TestChildMergeInUserNS(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("a child of TestMergeInUserNS only")
	}
	sn, err := overlay.NewSnapshotter(filepath.Join(dir, "sn"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { require.NoError(t, sn.Close()) }()
	m := newMerger(t, "overlayfs", sn, nil)
	m.layer(t, "a", "", tree.File("d/old", "old"), tree.File("e/old", "old"), tree.File("f", "f"))
	m.commit(t, "no-d", "a", func(root string) {
		require.NoError(t, os.RemoveAll(filepath.Join(root, "d")))
		require.NoError(t, os.RemoveAll(filepath.Join(root, "e")))
		require.NoError(t, tree.Write(root, tree.File("e/mine", "mine"))) // an opaque directory of the kernel's
	})
	m.layer(t, "again", "", tree.File("d/new", "new"))
	m.merge(t, "merged", snapshot.Diff{Upper: "a"}, snapshot.Diff{Upper: "again"}, snapshot.Diff{Lower: "a", Upper: "no-d"}, snapshot.Diff{Upper: "again"})
	require.Equal(t, 1, m.last().Skipped)
	require.EqualValues(t, 3, m.last().Linked)
	require.Zero(t, m.last().CopiedBytes)
	require.ElementsMatch(t, []string{"d", "d/new", "e", "e/mine", "f"}, paths(m.read(t, "merged")))
	m.inside(t, "merged", func(top string) {
		value := make([]byte, 8)
		n, err := unix.Lgetxattr(filepath.Join(top, "d"), "user.overlay.opaque", value)
		require.NoError(t, err)
		require.Equal(t, "y", string(value[:n]))
	})
}

// TestMergeWithoutUserXattr: where the probe fails, an overlay's snapshots are copied onto nothing (spec MRG-2), and nothing of the probe stays.
func TestMergeWithoutUserXattr(t *testing.T) {
	runInUserNS(t, "TestChildMergeWithoutUserXattr", t.TempDir(), 0)
}

// TestChildMergeWithoutUserXattr is the child of TestMergeWithoutUserXattr (spec MRG-2).
func TestChildMergeWithoutUserXattr(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("a child of TestMergeWithoutUserXattr only")
	}
	sn, err := native.NewSnapshotter(filepath.Join(dir, "sn"))
	require.NoError(t, err)
	defer func() { require.NoError(t, sn.Close()) }()
	m := newMerger(t, "overlayfs", sn, nil)
	left, err := os.ReadDir(filepath.Join(dir, "sn", "snapshots"))
	require.NoError(t, err)
	require.Empty(t, left)
	m.layer(t, "a", "", tree.File("a", "a"))
	m.layer(t, "b", "a", tree.File("b", "b"))
	m.merge(t, "merged", snapshot.Diff{Upper: "a"}, snapshot.Diff{Lower: "a", Upper: "b"})
	require.Zero(t, m.last().Skipped)
	require.Zero(t, m.last().Linked)
	require.EqualValues(t, 2, m.last().Copied+m.last().Cloned)
	require.ElementsMatch(t, []string{"a", "b"}, paths(m.read(t, "merged")))
}
