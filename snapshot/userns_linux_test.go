package snapshot_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
)

// childEnv tells the test binary that it is a child in a user namespace, and names the directory to bind.
const childEnv = "SNAPSHOT_TEST_USERNS_SOURCE"

// runInUserNS runs one test of this binary as root of a new user namespace.
func runInUserNS(t *testing.T, test, source string, flags uintptr) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+source)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		t.Skipf("user namespaces are not to be had: %v", err)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+test, "the child did not run the test")
}

// TestOwnMountNamespace: root of a user namespace that owns its mount namespace mounts, whoever it is outside, and
// the flags of the source's mount, which it may not drop, are kept (spec LM-1; design 6b).
func TestOwnMountNamespace(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 { // a mount with flags that are locked for the child
		require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, ""))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	}
	runInUserNS(t, "TestChildOwnMountNamespace", dir, syscall.CLONE_NEWNS)
}

// TestChildOwnMountNamespace is the child of TestOwnMountNamespace (spec LM-1).
func TestChildOwnMountNamespace(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("a child of TestOwnMountNamespace only")
	}
	for _, mode := range []string{"ro", "rw"} {
		lm := snapshot.LocalMounterWithMounts(bindOf(dir, mode), snapshot.ForceRemount())
		path, err := lm.Mount()
		require.NoError(t, err)
		require.NotEqual(t, dir, path)
		err = os.WriteFile(filepath.Join(path, "new"), nil, 0o644)
		if mode == "ro" {
			require.ErrorIs(t, err, unix.EROFS)
		} else {
			require.NoError(t, err)
			require.NoError(t, os.Remove(filepath.Join(dir, "new")))
		}
		require.NoError(t, lm.Unmount())
	}
}

// TestForeignMountNamespace: all capabilities of a user namespace are worth nothing in the outer mount namespace
// (spec LM-1; design 6b).
func TestForeignMountNamespace(t *testing.T) {
	runInUserNS(t, "TestChildForeignMountNamespace", t.TempDir(), 0)
}

// TestChildForeignMountNamespace is the child of TestForeignMountNamespace (spec LM-1).
func TestChildForeignMountNamespace(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("a child of TestForeignMountNamespace only")
	}
	require.Zero(t, os.Geteuid())
	path, err := snapshot.LocalMounterWithMounts(bindOf(dir, "ro")).Mount()
	require.NoError(t, err)
	require.Equal(t, dir, path)
	_, err = snapshot.LocalMounterWithMounts(bindOf(dir, "ro"), snapshot.ForceRemount()).Mount()
	require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
	requireNothingLeft(t)
}
