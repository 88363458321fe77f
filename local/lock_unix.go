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

// lockFile opens a database for reading, and keeps out whoever would write to it until it is closed. A database that somebody
// has open for writing is [ErrInUse].
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		_ = f.Close() // it was opened for reading, there is nothing to lose
		return nil, errors.Wrap(ErrInUse, path)
	}
	return f, nil
}

// dirLock is a locked directory.
type dirLock struct{ *os.File }

// Close gives the directory free.
func (l *dirLock) Close() error {
	unlock(l.File)
	return l.File.Close()
}

// unlock gives up the lock on a file that is about to be closed. Closing it does so as well, but not
// while a process that is just being started has copies of this one's descriptors.
func unlock(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // what could not be locked cannot be unlocked
}
