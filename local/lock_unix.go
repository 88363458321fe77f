//go:build unix

package local

import (
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// lockDir takes the directory for this process until the result is closed, or the process ends.
// The directory itself is locked rather than a file in it, so that a directory that turns out to
// be somebody else's is left exactly as it was.
//
// Filesystems that cannot lock directories (NFS) are let through: the locks that bolt takes on
// the databases tell as well, if a little later.
func lockDir(dir string) (*dirLock, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		_ = f.Close() // it was opened for reading, there is nothing to lose
		return nil, errors.Wrap(ErrInUse, dir)
	}
	return &dirLock{f}, nil
}

// dirLock is a locked directory.
type dirLock struct{ *os.File }

// Close gives the directory free, also if a process that is just being started still holds copies
// of this one's descriptors, which it closes a moment later.
func (l *dirLock) Close() error {
	_ = unix.Flock(int(l.Fd()), unix.LOCK_UN) // where it could not be locked, it cannot be unlocked
	return l.File.Close()
}
