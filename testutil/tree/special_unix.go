//go:build linux || darwin

package tree

import (
	"io/fs"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

func makeSpecial(path string, e Entry) error {
	switch e.Kind {
	case KindFifo:
		return unix.Mkfifo(path, 0o600)
	case KindChar:
		return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case KindBlock:
		return unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case KindSocket:
		return makeSocket(path)
	}
	return errors.Wrapf(errdefs.ErrInvalidArgument, "%s is not special", e.Kind)
}

// setTime sets the modification time of path itself, also if it is a symbolic link.
func setTime(path string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// inode identifies a file with several names.
type inode struct{ dev, ino uint64 }

// system fills in what package os does not tell, and returns the inode if it has several names.
func (e *Entry) system(info fs.FileInfo) (id inode, linked bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, false
	}
	e.UID, e.GID, e.owned = int(st.Uid), int(st.Gid), true
	if e.Kind == KindChar || e.Kind == KindBlock {
		e.Major, e.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return inode{uint64(st.Dev), st.Ino}, e.Kind != KindDir && st.Nlink > 1
}

// unsupported tells the errors of filesystems without extended attributes.
func unsupported(err error) bool { return errors.Is(err, unix.ENOTSUP) }
