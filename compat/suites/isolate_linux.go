package suites

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// isolate runs a command in the place of this process, with mounts of its own, and with a network of its own that has nothing but the loopback
// interface. Both vanish with the last process in it.
func isolate(args []string) error {
	if len(args) == 0 {
		return errors.Wrap(errdefs.ErrInvalidArgument, "no command")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return errors.Wrapf(errdefs.ErrNotFound, "%v", err)
	}
	runtime.LockOSThread() // exec keeps this thread's namespaces
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return errors.Wrap(err, "making namespaces")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return errors.Wrap(err, "parting from the mounts of others")
	}
	if err := loopbackUp(); err != nil {
		return errors.Wrap(err, "setting up the loopback interface")
	}
	var env []string
	for _, v := range os.Environ() {
		// What a test's process calls itself is no helper, and the settings of whoever runs the test are not its own.
		if !strings.HasPrefix(v, helperVariable+"=") && !strings.HasPrefix(v, "HOME=") {
			env = append(env, v)
		}
	}
	return errors.Wrap(unix.Exec(path, args, append(env, "HOME="+os.TempDir())), path)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.WithStack(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return errors.WithStack(err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return errors.WithStack(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// canIsolate has a command isolated.
func canIsolate(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.Wrap(errdefs.ErrFailedPrecondition, "needs root")
	}
	out, err := isolatedCommand(ctx, "true").CombinedOutput()
	if err != nil {
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "needs namespaces of mounts and networks: %v: %s", err, out)
	}
	return nil
}

// isolatedCommand returns a command that this program's helper runs.
func isolatedCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperVariable+"="+isolated)
	return cmd
}
