//go:build linux

package treediff

import (
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Marks is how the directories of a stack say what they hide.
type Marks uint8

const (
	// Plain directories hide nothing: a device with the number 0/0 is a device.
	Plain Marks = iota
	// Trusted marks are those of an overlay: devices 0/0, and attributes "trusted.overlay.".
	Trusted
	// User marks are those of an overlay mounted with "userxattr": devices 0/0, and attributes "user.overlay.".
	User
)

// Attributes by which an overlay steers itself, after the prefix.
const (
	attrOpaque   = "overlay.opaque"
	attrRedirect = "overlay.redirect"
)

// Opaque returns the attribute that, with the value "y", says that nothing below a directory shows through. It is "" for plain directories.
func (m Marks) Opaque() string {
	switch m {
	case Trusted:
		return "trusted." + attrOpaque
	case User:
		return "user." + attrOpaque
	}
	return ""
}

// Layers is where a tree lies.
type Layers struct {
	// Dirs are the directories, the topmost first. None are an empty tree.
	Dirs []string
	// Marks are theirs.
	Marks Marks
}

// layer is an open directory of one layer.
type layer struct {
	fd   int
	refs atomic.Int32
	stat unix.Stat_t
}

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openLayer opens the directory name in dirfd. It does not follow a link.
func openLayer(dirfd int, name string, flags int) (*layer, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(dirfd, name, flags, 0) })
	if err != nil {
		return nil, err
	}
	l := &layer{fd: fd}
	if err := unix.Fstat(fd, &l.stat); err != nil {
		_ = unix.Close(fd) // read only
		return nil, err
	}
	l.refs.Store(1)
	return l, nil
}

func (l *layer) hold() *layer {
	l.refs.Add(1)
	return l
}

func (l *layer) drop() {
	if l.refs.Add(-1) == 0 {
		_ = unix.Close(l.fd) // a directory: nothing can get lost
	}
}

// opaque tells whether nothing below the directory shows through, and refuses one that shows another directory's content.
func (l *layer) opaque(m Marks) (bool, error) {
	names, err := XattrNames(l.fd)
	if err != nil || len(names) == 0 {
		return false, errors.Wrap(err, "listing extended attributes")
	}
	opaque := false
	for _, name := range names {
		switch {
		case name == m.Opaque():
			value, err := Xattr(l.fd, name)
			if err != nil {
				return false, err
			}
			opaque = string(value) == "y"
		case name == "trusted."+attrRedirect || name == "user."+attrRedirect:
			value, err := Xattr(l.fd, name)
			if err != nil {
				return false, err
			}
			if len(value) > 0 {
				return false, errors.Wrapf(errdefs.ErrFailedPrecondition,
					"it is redirected to %q (%s), and layers with such directories cannot be compared", value, name)
			}
		}
	}
	return opaque, nil
}

// retry calls a system call again that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR { //nolint:errorlint // what a system call returned, with nothing around it
			return v, err
		}
	}
}
