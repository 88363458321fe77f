//go:build linux

package treemerge

import (
	"slices"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

const (
	attrAccessACL  = "system.posix_acl_access"
	attrDefaultACL = "system.posix_acl_default"
)

// internal tells whether overlayfs steers itself with an extended attribute. It means nothing in another tree (spec APP-7).
func internal(attr string) bool {
	_, rest, _ := strings.Cut(attr, ".")
	return strings.HasPrefix(rest, "overlay.")
}

// copyXattrs copies the extended attributes of an open file or directory to another. N is the directory's node, or nil.
func (w *walk) copyXattrs(from, to int, name string, n *node) error {
	attrs, err := treediff.XattrNames(from)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		if internal(attr) {
			continue
		}
		value, err := treediff.Xattr(from, attr)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(to, attr, value, 0); err != nil {
			w.unset(name, attr, err)
			continue
		}
		if n != nil && attr == attrDefaultACL {
			n.defaultACL = true
		}
	}
	return nil
}

// copyXattrsAt copies those of a file that is not to be opened.
func (w *walk) copyXattrsAt(fromDir int, from string, toDir int, to string) error {
	attrs, err := treediff.XattrNamesAt(fromDir, from)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		if internal(attr) {
			continue
		}
		value, err := treediff.XattrAt(fromDir, from, attr)
		if err != nil {
			return err
		}
		if err := treediff.SetXattrAt(toDir, to, attr, value); err != nil {
			w.unset(to, attr, err)
		}
	}
	return nil
}

// dropXattrs removes from a directory the extended attributes that the lower tree has there and the upper one has not. What else the
// directory has is of layers that were applied before, and stays.
func (w *walk) dropXattrs(lower, upper, target int) error {
	before, err := treediff.XattrNames(lower)
	if err != nil || len(before) == 0 {
		return err
	}
	now, err := treediff.XattrNames(upper)
	if err != nil {
		return err
	}
	for _, attr := range before {
		if internal(attr) || slices.Contains(now, attr) {
			continue
		}
		if err := unix.Fremovexattr(target, attr); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return errors.Wrapf(err, "removing %s", attr)
		}
	}
	return nil
}

// unset reports an attribute that could not be set.
func (w *walk) unset(name, attr string, err error) {
	if w.opt.Log != nil {
		w.opt.Log(name, attr, err)
	}
}

// dropACLs removes the access control lists that a new file or directory inherited.
func dropACLs(fd int) error {
	for _, attr := range []string{attrAccessACL, attrDefaultACL} {
		if err := unix.Fremovexattr(fd, attr); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return errors.Wrapf(err, "removing the inherited %s", attr)
		}
	}
	return nil
}
