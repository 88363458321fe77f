//go:build linux

package treediff

import (
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// XattrNames lists the extended attributes of an open file. A filesystem without them has none.
func XattrNames(fd int) ([]string, error) {
	return xattrNames(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
}

// XattrNamesAt lists those of the file name in the directory dirfd, which may be anything: it is not opened, nor followed.
func XattrNamesAt(dirfd int, name string) ([]string, error) {
	path := procPath(dirfd, name)
	return xattrNames(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
}

// Xattr returns the value of an extended attribute of an open file, nil if it has none.
func Xattr(fd int, attr string) ([]byte, error) {
	return xattr(attr, func(buf []byte) (int, error) { return unix.Fgetxattr(fd, attr, buf) })
}

// XattrAt returns that of the file name in the directory dirfd, which may be anything: it is not opened, nor followed.
func XattrAt(dirfd int, name, attr string) ([]byte, error) {
	path := procPath(dirfd, name)
	return xattr(attr, func(buf []byte) (int, error) { return unix.Lgetxattr(path, attr, buf) })
}

// SetXattrAt sets an extended attribute of the file name in the directory dirfd, which may be anything: it is not opened, nor followed.
func SetXattrAt(dirfd int, name, attr string, value []byte) error {
	return unix.Lsetxattr(procPath(dirfd, name), attr, value, 0)
}

// RemoveXattrAt removes one, if the file has it.
func RemoveXattrAt(dirfd int, name, attr string) error {
	err := unix.Lremovexattr(procPath(dirfd, name), attr)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// procPath is a path to a name in an open directory, for system calls that take no directory. Only its last component can
// be a link of the tree.
func procPath(dirfd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + name
}

func xattrNames(list func(buf []byte) (int, error)) ([]string, error) {
	var small [256]byte
	n, err := list(small[:])
	buf := small[:]
	for errors.Is(err, unix.ERANGE) { // longer, or grown since it was measured
		if n, err = list(nil); err != nil {
			break
		}
		buf = make([]byte, n)
		n, err = list(buf)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case err != nil:
		return nil, errors.Wrap(err, "listing extended attributes")
	case n == 0:
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

func xattr(name string, get func(buf []byte) (int, error)) ([]byte, error) {
	var small [64]byte
	n, err := get(small[:])
	buf := small[:]
	for errors.Is(err, unix.ERANGE) {
		if n, err = get(nil); err != nil {
			break
		}
		buf = make([]byte, n)
		n, err = get(buf)
	}
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case err != nil:
		return nil, errors.Wrapf(err, "reading extended attribute %s", name)
	}
	return append(make([]byte, 0, n), buf[:n]...), nil
}
