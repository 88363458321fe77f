//go:build linux || darwin

package history

import (
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/testutil/tree"
)

// setTime sets the modification time of path itself, also if it is a symbolic link.
func setTime(path string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func makeNode(path string, kind tree.Kind, major, minor uint32) error {
	types := map[tree.Kind]uint32{tree.KindFifo: unix.S_IFIFO, tree.KindSocket: unix.S_IFSOCK, tree.KindChar: unix.S_IFCHR, tree.KindBlock: unix.S_IFBLK}
	return unix.Mknod(path, types[kind]|0o600, int(unix.Mkdev(major, minor)))
}

func unsupported(err error) bool { return errors.Is(err, unix.ENOTSUP) }

func noAttribute(err error) bool { return errors.Is(err, sysx.ENODATA) }

func otherDevice(err error) bool { return errors.Is(err, unix.EXDEV) }
