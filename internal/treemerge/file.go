//go:build linux

package treemerge

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

// file applies a change that leaves no directory under the name. The cursor has been entered.
func (w *walk) file(c *cursor, ch *treediff.Change) error {
	switch {
	case ch.Kind == treediff.Delete:
		return w.remove(c, ch)
	case ch.Type == unix.S_IFIFO || ch.Type == unix.S_IFSOCK || !w.linking():
		return w.copy(c, ch)
	}
	dirfd, name := ch.At()
	err := w.put(c, ch.Name, func() error { return w.sys.linkat(dirfd, name, c.fd, ch.Name) })
	switch {
	case errors.Is(err, unix.EXDEV):
		w.noLink.Store(true)
	case errors.Is(err, unix.EMLINK):
	case err != nil:
		return errors.Wrap(err, "linking")
	default:
		w.stats.linked.Add(1)
		return nil
	}
	w.stats.refuse(err)
	return w.copy(c, ch)
}

// put makes something under a name, and removes what is there if it has to.
func (w *walk) put(c *cursor, name string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := w.clear(c, name); err != nil {
		return err
	}
	return create()
}

// clear removes what the target has under a name, if anything.
func (w *walk) clear(c *cursor, name string) error {
	if c.node.forget(name) {
		return removeTree(w.ctx, c.fd, name)
	}
	if err := unix.Unlinkat(c.fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return errors.Wrap(err, "removing what was there")
	}
	return nil
}

// remove deletes a name, and marks it as deleted if there is one below that would show instead (spec APP-3).
func (w *walk) remove(c *cursor, ch *treediff.Change) error {
	if err := w.clear(c, ch.Name); err != nil || w.opaque == "" {
		return err
	}
	c.mu.Lock()
	base, err := c.lower(c.node.opaque)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if has, err := base.Has(ch.Name); err != nil || !has {
		return err
	}
	if dirfd, name, ok := ch.Mark(); ok && w.linking() {
		err := w.sys.linkat(dirfd, name, c.fd, ch.Name)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) {
			return errors.Wrap(err, "linking a mark")
		}
	}
	if err := unix.Mknodat(c.fd, ch.Name, unix.S_IFCHR, 0); err != nil {
		return errors.Wrap(err, "marking as deleted")
	}
	c.node.setOwn()
	return nil
}

// copy makes a file like that of the upper tree (spec APP-6).
func (w *walk) copy(c *cursor, ch *treediff.Change) error {
	st, err := ch.Stat()
	if err != nil {
		return err
	}
	c.node.setOwn()
	shared := st.Nlink > 1 && ch.Type != unix.S_IFIFO && ch.Type != unix.S_IFSOCK
	if !shared {
		return w.copyOnce(c, ch, st, nil)
	}
	// Another name of a file that was copied before becomes another name of the copy (spec DIF-6). The lock is held until there is
	// something that can be linked, not until it is filled.
	w.links.Lock()
	first, ok := w.links.made[inodeOf(st)]
	if ok {
		w.links.Unlock()
		done, err := w.linkMade(c, ch.Name, first)
		if err != nil || done {
			return err
		}
		w.links.Lock() // it has as many names as it can have: a new copy takes its place
	}
	unlocked := false
	unlock := func() {
		if !unlocked {
			unlocked = true
			w.links.Unlock()
		}
	}
	defer unlock()
	return w.copyOnce(c, ch, st, func(id inode) {
		w.links.made[inodeOf(st)] = made{path: joinPath(c.path(), ch.Name), id: id}
		unlock()
	})
}

// linkMade gives a file of the target another name. Not done says that it cannot have more.
func (w *walk) linkMade(c *cursor, name string, first made) (done bool, err error) {
	dirfd, base, closeDir, err := w.openParent(first.path)
	if err != nil {
		return false, err
	}
	defer closeDir()
	err = w.put(c, name, func() error { return w.sys.linkat(dirfd, base, c.fd, name) })
	switch {
	case errors.Is(err, unix.EMLINK):
		w.stats.refuse(err)
		return false, nil
	case err != nil:
		return false, errors.Wrapf(err, "linking to /%s", first.path)
	}
	w.stats.linked.Add(1)
	w.mu.Lock()
	w.mu.own[first.id] = true
	w.mu.Unlock()
	return true, nil
}

// copyOnce makes the file. Created, if not nil, is called as soon as it has its name.
func (w *walk) copyOnce(c *cursor, ch *treediff.Change, st *unix.Stat_t, created func(inode)) error {
	if ch.Type == unix.S_IFREG {
		return w.copyFile(c, ch, created)
	}
	dirfd, from := ch.At()
	var create func() error
	switch ch.Type {
	case unix.S_IFLNK:
		target, err := treediff.Readlink(dirfd, from)
		if err != nil {
			return err
		}
		create = func() error { return unix.Symlinkat(target, c.fd, ch.Name) }
	case unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
		create = func() error { return unix.Mknodat(c.fd, ch.Name, st.Mode, int(st.Rdev)) } //nolint:gosec // as the kernel gave it
	default:
		return errors.Errorf("%q is a file of unknown type %#o", ch.Name, ch.Type)
	}
	if err := w.put(c, ch.Name, create); err != nil {
		return errors.Wrap(err, "making it")
	}
	if created != nil {
		var own unix.Stat_t
		if err := unix.Fstatat(c.fd, ch.Name, &own, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return errors.Wrap(err, "looking at what was made")
		}
		created(inodeOf(&own))
	}
	w.stats.copied.Add(1)
	return w.dressSpecial(c, ch, st)
}

// dressSpecial gives a file that cannot be opened its attributes: the owner first, since a change of owner takes others
// away, the times last.
func (w *walk) dressSpecial(c *cursor, ch *treediff.Change, st *unix.Stat_t) error {
	const noFollow = unix.AT_SYMLINK_NOFOLLOW
	if err := unix.Fchownat(c.fd, ch.Name, int(st.Uid), int(st.Gid), noFollow); err != nil {
		return errors.Wrap(err, "setting the owner")
	}
	if ch.Type != unix.S_IFLNK {
		if c.node.defaultACL {
			if err := treediff.RemoveXattrAt(c.fd, ch.Name, attrAccessACL); err != nil {
				return errors.Wrapf(err, "removing the inherited %s", attrAccessACL)
			}
		}
		// It has just been made here and nobody else works here, so this is no link.
		if err := unix.Fchmodat(c.fd, ch.Name, st.Mode&0o7777, 0); err != nil {
			return errors.Wrap(err, "setting the mode")
		}
	}
	dirfd, from := ch.At()
	if err := w.copyXattrsAt(dirfd, from, c.fd, ch.Name); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return errors.Wrap(unix.UtimesNanoAt(c.fd, ch.Name, times, noFollow), "setting the times")
}
