//go:build unix

package local

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// checkWritable asks the kernel whether this process may write to path, without doing it.
func checkWritable(path string, isDir bool) error {
	mode := uint32(unix.R_OK | unix.W_OK)
	if isDir {
		mode |= unix.X_OK
	}
	err := unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)
	return errors.Wrapf(err, "access to %s", path)
}
