//go:build linux

package treediff

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Item is a change and where in the tree it is.
type Item struct {
	Change
	// Path is relative to the root, with slashes.
	Path string
	// Link is the path of an earlier item, if this is another name of the same file (spec DIF-6). Unchanged items that are no
	// directories have it always.
	Link string

	dir  *attrs // of a directory that is not open any more
	open *int   // the walker's descriptor of the file, closed if negative
}

// attrs is what remains known of a directory.
type attrs struct {
	stat       *unix.Stat_t
	capability []byte
}

// Capability returns the file's "security.capability", nil if it has none.
func (i *Item) Capability() ([]byte, error) {
	switch {
	case i.dir != nil:
		return i.dir.capability, nil
	case i.Sub != nil:
		return Xattr(i.Sub.Upper.Fd(), attrCapability)
	case i.open != nil && *i.open >= 0:
		return Xattr(*i.open, attrCapability)
	}
	dirfd, name := i.At()
	return XattrAt(dirfd, name, attrCapability)
}

// Open opens a regular file for reading, as OpenFd does, and for Capability as well. What is not the file that Stat described is errdefs'
// "aborted". The descriptor is the walk's: it is good until fn returns.
func (i *Item) Open() (fd int, err error) {
	if *i.open >= 0 {
		return *i.open, nil
	}
	st, err := i.Stat()
	if err != nil {
		return -1, err
	}
	if *i.open, err = OpenFd(i.At()); err != nil {
		return -1, err
	}
	var now unix.Stat_t
	if err := unix.Fstat(*i.open, &now); err != nil {
		return -1, errors.Wrapf(err, "looking at %q", i.Name)
	}
	if now.Mode&unix.S_IFMT != unix.S_IFREG || now.Dev != st.Dev || now.Ino != st.Ino || now.Size != st.Size {
		return -1, errors.Wrapf(errdefs.ErrAborted, "%q is not what it was a moment ago", i.Name)
	}
	return *i.open, nil
}

// Walk calls fn for each change between two trees in the order that archives have: names in order, each directory followed
// by what is in it. The root is never part of it. Directories in which something changed come before it, as modified if
// they did not change themselves (spec DIF-4). An item's descriptors are good until fn returns.
//
// A file of several names is one thing: if one of them is new or the file changed, the others are reported as links to
// it, though they were there before. Those that come earlier in the order follow the item at once, with the directories that they
// are in, the others in their place. As no archive can hold a socket, there is none among the items, unless it is deleted.
//
// Memory is needed for the directories from the root to the item, and for each file with several names.
func Walk(ctx context.Context, lower, upper Layers, fn func(Item) error) error {
	root, err := OpenPair(lower, upper)
	if err != nil {
		return err
	}
	defer root.Close()
	w := walker{ctx: ctx, fn: fn, seen: map[inode]string{}, unchanged: map[inode][]place{}, open: -1}
	return w.dir(&step{pair: root, reported: true})
}

type inode struct{ dev, ino uint64 }

// place is a name in a directory.
type place struct {
	dir  *step
	name string
}

type walker struct {
	ctx context.Context //nolint:containedctx // a walk is one call
	fn  func(Item) error
	// seen is where files of several names were reported, and unchanged where such were passed by.
	seen      map[inode]string
	unchanged map[inode][]place
	// open is the item's descriptor.
	open int
	// blamed says that the error that ends the walk names its place.
	blamed bool
}

// step is a directory, between the root and the item or with names that may become links.
type step struct {
	parent *step
	path   string
	name   string
	pair   *Pair  // nil when it is closed
	attrs  *attrs // set if it may have to be reported then
	// reported says that fn knows of it.
	reported bool
}

func (s *step) join(name string) string {
	if s.path == "" {
		return name
	}
	return s.path + "/" + name
}

func (w *walker) dir(s *step) error {
	err := s.pair.changes(w.ctx, true, func(c Change) error {
		if c.Sub == nil {
			return w.file(&c, s)
		}
		defer c.Sub.Close()
		sub := &step{parent: s, path: s.join(c.Name), name: c.Name, pair: c.Sub}
		defer func() { sub.pair = nil }()
		if c.Kind != Unchanged {
			if err := w.report(s); err != nil {
				return err
			}
			sub.reported = true
			if err := w.fn(Item{Change: c, Path: sub.path}); err != nil {
				return err
			}
		}
		return w.dir(sub)
	})
	if err != nil && !w.blamed {
		w.blamed = true
		err = errors.WithMessagef(err, "directory /%s", s.path)
	}
	return err
}

// report tells fn of a directory and those above it.
func (w *walker) report(s *step) error {
	if s.reported {
		return nil
	}
	if err := w.report(s.parent); err != nil {
		return err
	}
	s.reported = true
	i := Item{Path: s.path, Change: Change{Kind: Modify, Name: s.name, Type: unix.S_IFDIR, Sub: s.pair}}
	if s.pair == nil {
		i.dir, i.upper = s.attrs, &entry{name: s.name, typ: unix.S_IFDIR, st: s.attrs.stat}
	}
	return w.fn(i)
}

// keep remembers what report needs when the directory is closed.
func (s *step) keep() error {
	for ; !s.reported && s.attrs == nil; s = s.parent {
		capability, err := Xattr(s.pair.Upper.Fd(), attrCapability)
		if err != nil {
			return err
		}
		s.attrs = &attrs{stat: s.pair.Upper.Stat(), capability: capability}
	}
	return nil
}

// file tells fn of a name that is no directory, or keeps it until it turns out to be a link.
func (w *walker) file(c *Change, in *step) error {
	if c.Type == unix.S_IFSOCK {
		return nil
	}
	defer w.close()
	i := Item{Change: *c, Path: in.join(c.Name), open: &w.open}
	var earlier []place
	if c.Kind != Delete {
		st, err := w.look(c)
		if err != nil {
			return err
		}
		if st.Nlink > 1 {
			id := inode{st.Dev, st.Ino}
			i.Link = w.seen[id]
			if i.Link == "" && c.Kind == Unchanged {
				w.unchanged[id] = append(w.unchanged[id], place{in, c.Name})
				return in.keep()
			}
			if i.Link == "" {
				w.seen[id] = i.Path
				earlier = w.unchanged[id]
				delete(w.unchanged, id)
			}
		}
	}
	if err := w.report(in); err != nil {
		return err
	}
	if err := w.fn(i); err != nil {
		return err
	}
	for _, p := range earlier {
		if err := w.report(p.dir); err != nil {
			return err
		}
		link := Item{Change: *c, Path: p.dir.join(p.name), Link: i.Path, open: &w.open} // the same file: where it lies does not matter
		link.Kind, link.Name = Unchanged, p.name
		if err := w.fn(link); err != nil {
			return err
		}
	}
	return nil
}

// look describes a file. A regular one that nobody has looked at yet is opened: it will be read most likely, and then that is a system call
// less.
func (w *walker) look(c *Change) (*unix.Stat_t, error) {
	if c.Type != unix.S_IFREG || c.upper.st != nil {
		return c.Stat()
	}
	fd, err := OpenFd(c.At())
	if err != nil {
		return c.Stat() // it may be one that needs not be read
	}
	w.open = fd
	st := new(unix.Stat_t)
	if err := unix.Fstat(fd, st); err != nil {
		return nil, errors.Wrapf(err, "looking at %q", c.Name)
	}
	c.upper.st = st
	return st, nil
}

func (w *walker) close() {
	if w.open >= 0 {
		_ = unix.Close(w.open) // read only
		w.open = -1
	}
}
