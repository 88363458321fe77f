//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package metadata

import (
	stderrors "errors"
	"os"
	"syscall"

	"github.com/pkg/errors"
)

// lockFile takes the lock that bbolt takes on the same descriptor, where having it is no
// obstacle to taking it again.
func lockFile(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.WithStack(ErrDatabaseLocked)
	}
	return errors.WithStack(err)
}

// canSalvage tells whether an open file can be replaced while it is locked.
const canSalvage = true

// copyOwner gives a file the owner that another has.
func copyOwner(from os.FileInfo, to *os.File) error {
	fi, err := to.Stat()
	if err != nil {
		return err
	}
	want, ok := from.Sys().(*syscall.Stat_t)
	have, ok2 := fi.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || want.Uid == have.Uid && want.Gid == have.Gid {
		return nil
	}
	return to.Chown(int(want.Uid), int(want.Gid))
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // the filesystem has nothing to sync
	}
	return stderrors.Join(err, d.Close())
}
