//go:build linux

package treemerge

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// enter makes sure that the target has the directory, and gives it and its ancestors the attributes they have in the upper tree (spec
// DIF-4). The first change in a directory does that, whether there turns out to be anything to do for it or not.
func (c *cursor) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node != nil {
		return nil
	}
	if err := c.parent.enter(); err != nil {
		return err
	}
	n := c.parent.node.child(c.name)
	replaced := false
	fresh := n == nil
	if fresh {
		var err error
		if replaced, err = c.mkdir(); err != nil {
			return err
		}
		n = &node{}
	}
	fd, err := unix.Openat(c.parent.fd, c.name, openDir, 0)
	if err != nil {
		return errors.Wrapf(err, "opening directory %q", c.name)
	}
	c.fd = fd // closed by drop, whatever becomes of it
	n.opaque = n.opaque || replaced && c.w.opaque != ""
	if fresh && !n.opaque && c.w.opaque != "" {
		if err := c.copyUp(n); err != nil {
			return errors.WithMessagef(err, "directory %q", c.name)
		}
	}
	if err := c.dress(n, fresh); err != nil {
		return errors.WithMessagef(err, "directory %q", c.name)
	}
	c.parent.node.put(c.name, n)
	c.node = n
	return nil
}

// mkdir makes the directory, and tells whether something else had to go.
func (c *cursor) mkdir() (replaced bool, err error) {
	err = unix.Mkdirat(c.parent.fd, c.name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		// All directories are known, so it is something else.
		if err = unix.Unlinkat(c.parent.fd, c.name, 0); err != nil {
			return false, errors.Wrapf(err, "removing %q", c.name)
		}
		replaced = true
		err = unix.Mkdirat(c.parent.fd, c.name, 0o700)
	}
	return replaced, errors.Wrapf(err, "making directory %q", c.name)
}

// lower returns what lies below the directory in an overlay. The cursor's mutex is held.
func (c *cursor) lower(opaque bool) (*treediff.Dir, error) {
	if c.baseKnown || c.w.opaque == "" {
		return c.base, nil
	}
	if !opaque {
		c.parent.mu.Lock()
		below, err := c.parent.lower(c.parent.node.opaque)
		c.parent.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if c.base, err = below.Sub(c.name); err != nil {
			return nil, errors.WithMessage(err, "looking below the target")
		}
	}
	c.baseKnown = true
	return c.base, nil
}

// copyUp gives a new directory the attributes of the one that it covers: an overlay shows those of the topmost directory only, and in
// the tree as it is seen the directory is changed, not replaced.
func (c *cursor) copyUp(n *node) error {
	base, err := c.lower(false)
	if err != nil || !base.Exists() {
		return err
	}
	return c.w.copyXattrs(base.Fd(), c.fd, c.name, n)
}

// dress gives the directory the attributes of the upper tree's: first the owner, since a change of owner takes others away (spec APP-6).
func (c *cursor) dress(n *node, fresh bool) error {
	src := c.pair.Upper
	st := src.Stat()
	if err := unix.Fchown(c.fd, int(st.Uid), int(st.Gid)); err != nil {
		return errors.Wrap(err, "setting the owner")
	}
	if fresh && c.parent.node.defaultACL {
		if err := dropACLs(c.fd); err != nil {
			return err
		}
	}
	const owner = 0o700
	mode := st.Mode & 0o7777
	if err := unix.Fchmod(c.fd, mode|owner); err != nil {
		return errors.Wrap(err, "setting the mode")
	}
	n.mode, n.hasMode = mode, mode|owner != mode
	if err := c.w.copyXattrs(src.Fd(), c.fd, c.name, n); err != nil {
		return err
	}
	if c.pair.Lower.Exists() {
		if err := c.w.dropXattrs(c.pair.Lower.Fd(), src.Fd(), c.fd); err != nil {
			return err
		}
	}
	if n.opaque {
		if err := unix.Fsetxattr(c.fd, c.w.opaque, []byte{'y'}, 0); err != nil {
			return errors.Wrapf(err, "setting %s", c.w.opaque)
		}
	}
	n.mtime, n.hasMtime = st.Mtim, true
	return nil
}
