//go:build linux

package treediff

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

const attrCapability = "security.capability"

// same tells whether two files of one type that are no directories are equal (spec DIF-7).
func same(ctx context.Context, u, l *entry) (bool, error) {
	us, err := u.stat()
	if err != nil {
		return false, err
	}
	ls, err := l.stat()
	if err != nil {
		return false, err
	}
	if us.Dev == ls.Dev && us.Ino == ls.Ino {
		return true, nil
	}
	if !sameStat(us, ls) || us.Size != ls.Size || us.Mtim != ls.Mtim {
		return false, nil
	}
	uc, err := XattrAt(u.in.fd, u.name, attrCapability)
	if err != nil {
		return false, err
	}
	lc, err := XattrAt(l.in.fd, l.name, attrCapability)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(uc, lc) {
		return false, nil
	}
	if us.Mtim.Nsec != 0 {
		return true, nil
	}
	// The time may have been cut off, by an archive for instance, and proves nothing.
	switch u.typ {
	case unix.S_IFLNK:
		return sameLink(u, l)
	case unix.S_IFREG:
		return sameContent(ctx, u, l)
	}
	return true, nil
}

func sameStat(u, l *unix.Stat_t) bool {
	return u.Mode == l.Mode && u.Uid == l.Uid && u.Gid == l.Gid && u.Rdev == l.Rdev
}

// sameDir tells whether two directories have equal attributes (spec DIF-7).
func sameDir(u, l *layer) (bool, error) {
	if u == l || u.stat.Dev == l.stat.Dev && u.stat.Ino == l.stat.Ino {
		return true, nil
	}
	if !sameStat(&u.stat, &l.stat) {
		return false, nil
	}
	uc, err := Xattr(u.fd, attrCapability)
	if err != nil {
		return false, err
	}
	lc, err := Xattr(l.fd, attrCapability)
	return err == nil && bytes.Equal(uc, lc), err
}

func sameLink(u, l *entry) (bool, error) {
	ut, err := Readlink(u.in.fd, u.name)
	if err != nil {
		return false, err
	}
	lt, err := Readlink(l.in.fd, l.name)
	return ut == lt, err
}

// Readlink returns where the symbolic link name in the directory dirfd points.
func Readlink(dirfd int, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err != nil {
			return "", errors.Wrapf(err, "reading symbolic link %q", name)
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 2*len(buf))
	}
}

// OpenFile opens the regular file name in the directory dirfd for reading. It follows no link, and waits for
// nobody should something else have that name.
func OpenFile(dirfd int, name string) (*os.File, error) {
	fd, err := OpenFd(dirfd, name)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// OpenFd is OpenFile without what package os does with a descriptor, which costs as much again. The result is the caller's
// to close.
func OpenFd(dirfd int, name string) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	return fd, errors.Wrapf(err, "opening %q", name)
}

const compareBuffer = 64 << 10

var compareBuffers = sync.Pool{New: func() any { return new([2][compareBuffer]byte) }}

func sameContent(ctx context.Context, u, l *entry) (bool, error) {
	uf, err := OpenFile(u.in.fd, u.name)
	if err != nil {
		return false, err
	}
	defer uf.Close()
	lf, err := OpenFile(l.in.fd, l.name)
	if err != nil {
		return false, err
	}
	defer lf.Close()
	bufs, _ := compareBuffers.Get().(*[2][compareBuffer]byte)
	defer compareBuffers.Put(bufs)
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n, uerr := io.ReadFull(uf, bufs[0][:])
		m, lerr := io.ReadFull(lf, bufs[1][:])
		for _, err := range []error{uerr, lerr} {
			if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) { //nolint:errorlint // what ReadFull returns, bare
				return false, errors.Wrapf(err, "reading %q", u.name)
			}
		}
		if !bytes.Equal(bufs[0][:n], bufs[1][:m]) {
			return false, nil
		}
		if uerr != nil || lerr != nil {
			return uerr != nil && lerr != nil, nil
		}
	}
}
