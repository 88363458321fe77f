package snapshot

import (
	"os"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/userns"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// unmountFlags detach the mount at once and let the last user of it finish.
const unmountFlags = unix.MNT_DETACH

func isBind(m mount.Mount) bool { return m.Type == "bind" || m.Type == "rbind" }

// mayMount is the one place that decides whether this process may mount. The user ID says nothing: root in a
// container may lack the capability, and an ordinary user in a user namespace of his own has it. It takes
// CAP_SYS_ADMIN in effect, and over the user namespace that owns our mount namespace.
// The error has category permission denied.
func mayMount() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 fills two
	if err := unix.Capget(&header, &data[0]); err != nil {
		return errors.Wrapf(errdefs.ErrPermissionDenied, "asking for the capabilities of the process: %v", err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return errors.Wrap(errdefs.ErrPermissionDenied, "the process lacks CAP_SYS_ADMIN")
	}
	ns, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil // no procfs: the attempt will show
	}
	defer ns.Close()
	// The kernel names the owner only to those in it or above it, and that is just where the capability holds.
	owner, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	switch {
	case errors.Is(err, unix.EPERM):
		return errors.Wrap(errdefs.ErrPermissionDenied, "the mount namespace belongs to an outer user namespace")
	case err == nil:
		_ = unix.Close(owner)
	}
	return nil
}

// platformMounts adapts mounts to a user namespace. Flags on a mount that came from outside are locked: a
// bind mount that does not repeat them is refused.
func platformMounts(mounts []mount.Mount) ([]mount.Mount, error) {
	if !userns.RunningInUserNS() {
		return mounts, nil
	}
	return withLockedFlags(mounts, mountFlagsOf)
}

// withLockedFlags adds to each bind mount the flags that flagsOf reports for its source.
func withLockedFlags(mounts []mount.Mount, flagsOf func(path string) ([]string, error)) ([]mount.Mount, error) {
	out := slices.Clone(mounts)
	for i, m := range out {
		if !isBind(m) && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		flags, err := flagsOf(m.Source)
		if err != nil {
			return nil, errors.Wrapf(err, "reading the mount flags of %s", m.Source)
		}
		options := slices.Clone(m.Options)
		for _, flag := range flags {
			if !slices.Contains(options, flag) {
				options = append(options, flag)
			}
		}
		out[i].Options = options
	}
	return out, nil
}

// mountFlagsOf returns those flags of the mount that path is on which the kernel locks.
func mountFlagsOf(path string) ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, err
	}
	return lockedFlags(int64(st.Flags)), nil
}

// lockedFlags names the locked flags in a statfs result.
func lockedFlags(flags int64) []string {
	var out []string
	for _, f := range []struct {
		bit  int64
		name string
	}{
		{unix.ST_RDONLY, "ro"},
		{unix.ST_NODEV, "nodev"},
		{unix.ST_NOEXEC, "noexec"},
		{unix.ST_NOSUID, "nosuid"},
		{unix.ST_NOATIME, "noatime"},
		{unix.ST_RELATIME, "relatime"},
		{unix.ST_NODIRATIME, "nodiratime"},
	} {
		if flags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	return out
}
