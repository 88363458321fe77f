package apply

import (
	"os"
	"slices"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
)

// rights is what this process may make.
type rights struct {
	// override: files are no obstacle to it, whatever their modes.
	override bool
	// device: device nodes. Security: extended attributes of the kernel's security modules, file capabilities among them.
	device, security bool
	// owner tells whether it may give a file to a user and a group.
	owner func(uid, gid int) bool
}

func processRights() rights {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		data = [2]unix.CapUserData{} // a seccomp filter that forbids asking: assume nothing
	}
	has := func(capability int) bool { return data[0].Effective&(1<<capability) != 0 }
	inner := userns.RunningInUserNS()
	return rights{
		override: has(unix.CAP_DAC_OVERRIDE),
		// The kernel asks for the right over the initial user namespace.
		device:   has(unix.CAP_MKNOD) && !inner,
		security: has(unix.CAP_SETFCAP),
		owner:    owners(has(unix.CAP_CHOWN), inner),
	}
}

// owners tells whom files may be given to.
func owners(chown, inner bool) func(uid, gid int) bool {
	switch {
	case !chown:
		groups, err := os.Getgroups()
		if err != nil {
			groups = nil
		}
		return func(uid, gid int) bool {
			return uid == os.Geteuid() && (gid == os.Getegid() || slices.Contains(groups, gid))
		}
	case !inner:
		return func(int, int) bool { return true }
	}
	uids, uerr := user.ParseIDMapFile("/proc/self/uid_map")
	gids, gerr := user.ParseIDMapFile("/proc/self/gid_map")
	return func(uid, gid int) bool {
		// Without procfs the attempt will show.
		return (uerr != nil || mapped(uids, uid)) && (gerr != nil || mapped(gids, gid))
	}
}

// mapped tells whether the user namespace has a user or group of that number.
func mapped(ids []user.IDMap, id int) bool {
	return slices.ContainsFunc(ids, func(m user.IDMap) bool {
		return int64(id) >= m.ID && int64(id)-m.ID < m.Count
	})
}

// mayMark returns nil if this process may write the marks of an overlay that is mounted by root: device numbers 0/0 and
// attributes "trusted.".
func mayMark() error {
	if userns.RunningInUserNS() {
		return errors.New("overlayfs's marks cannot be written in a user namespace")
	}
	return snapshot.MayMount()
}
