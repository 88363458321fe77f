package snapshot_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/moby/sys/userns"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// historiesEnv tells the test binary that it is a child in a user namespace.
const historiesEnv = "SNAPSHOT_TEST_USERNS_HISTORIES"

// The same random histories as in TestHistories as root of a user namespace: without device nodes, with overlays that keep their
// marks in user attributes, and file capabilities of the third version, which are the namespace's own (spec MRG-2, MRG-1, APP-4; fault 36).
func TestHistoriesInUserNamespace(t *testing.T) {
	size := 1 // an ordinary user has but himself
	if os.Geteuid() == 0 {
		size = 10
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestChildHistories$", "-test.v")
	cmd.Env = append(os.Environ(), historiesEnv+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: size}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: size}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		t.Skipf("user namespaces are not to be had: %v", err)
	}
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "--- SKIP", "%s", out)
	require.Contains(t, string(out), "--- PASS: TestChildHistories", "%s", out)
	t.Logf("%s", out)
}

// TestChildHistories is the child of TestHistoriesInUserNamespace.
func TestChildHistories(t *testing.T) {
	if os.Getenv(historiesEnv) == "" {
		t.Skip("a child of TestHistoriesInUserNamespace only")
	}
	require.True(t, userns.RunningInUserNS())
	for _, name := range []string{"overlayfs", "native", "copying"} {
		t.Run(name, func(t *testing.T) {
			r := newMergeRig(t, name)
			require.False(t, r.features.Devices)
			require.Contains(t, r.features.Xattrs, "cap")
			checkHistories(t, r)
		})
		t.Run(name+" again", func(t *testing.T) { checkKnownHistories(t, newMergeRig(t, name)) })
		t.Run(name+" differences", func(t *testing.T) { checkDiffOnLower(t, newMergeRig(t, name)) })
	}
}
