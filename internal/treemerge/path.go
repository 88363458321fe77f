//go:build linux

package treemerge

import (
	"context"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// openParent opens the directory of a path in the target, component by component, and returns it with the last one.
func (w *walk) openParent(path string) (dirfd int, base string, closeDir func(), err error) {
	dirfd, closeDir = w.rootFd, func() {}
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return dirfd, name, closeDir, nil
		}
		fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		closeDir()
		if err != nil {
			return -1, "", nil, errors.Wrapf(err, "opening directory %q", name)
		}
		dirfd, path = fd, rest
		closeDir = func() { _ = unix.Close(fd) } // a directory
	}
}

// removeTree removes a directory with all that is in it, and follows no link.
func removeTree(ctx context.Context, dirfd int, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	fd, err := unix.Openat(dirfd, name, openDir, 0)
	if err != nil {
		return errors.Wrapf(err, "opening directory %q to remove it", name)
	}
	err = removeEntries(ctx, fd)
	_ = unix.Close(fd) // a directory
	if err != nil {
		return err
	}
	return errors.Wrapf(unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR), "removing directory %q", name)
}

func removeEntries(ctx context.Context, fd int) error {
	names, err := entries(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(fd, name, 0)
		switch {
		case errors.Is(err, unix.EISDIR):
			err = removeTree(ctx, fd, name)
		case err != nil:
			err = errors.Wrapf(err, "removing %q", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entries returns the names in an open directory. To go to its beginning is more than that: btrfs shows what there was when the directory was
// opened or that was last done.
func entries(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, errors.Wrap(err, "reading a directory")
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, errors.Wrap(err, "reading a directory")
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
