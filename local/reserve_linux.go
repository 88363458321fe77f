package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// allocate has a file occupy space without writing it, where the filesystem knows how to.
func allocate(f *os.File, size int64) (done bool, err error) {
	for {
		switch err := unix.Fallocate(int(f.Fd()), 0, 0, size); err {
		case nil:
			return true, nil
		case unix.EINTR:
		case unix.EOPNOTSUPP, unix.ENOSYS:
			return false, nil
		default:
			return false, err
		}
	}
}
