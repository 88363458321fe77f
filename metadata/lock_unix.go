//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package metadata

import (
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
