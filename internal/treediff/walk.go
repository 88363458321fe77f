//go:build linux

package treediff

import (
	"context"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Item is a change and where in the tree it is.
type Item struct {
	Change
	// Path is relative to the root, with slashes.
	Path string
	// Link is the path of an earlier item, if this is another name of the same file (spec DIF-6).
	Link string
}

// Walk calls fn for each change between two trees in the order that archives have: names in order, each directory followed
// by what is in it. The root is never part of it. Directories in which something changed come before it, as modified if
// they did not change themselves (spec DIF-4). An item's descriptors are good until fn returns.
//
// Memory is needed for the directories from the root to the item, and for each file with several names.
func Walk(ctx context.Context, lower, upper Layers, fn func(Item) error) error {
	root, err := OpenPair(lower, upper)
	if err != nil {
		return err
	}
	defer root.Close()
	w := walker{ctx: ctx, fn: fn, seen: map[inode]string{}}
	return w.dir(&step{pair: root, reported: true})
}

type inode struct{ dev, ino uint64 }

type walker struct {
	ctx  context.Context //nolint:containedctx // a walk is one call
	fn   func(Item) error
	seen map[inode]string
	// blamed says that the error that ends the walk names its place.
	blamed bool
}

// step is a directory between the root and the item.
type step struct {
	parent *step
	path   string
	name   string
	pair   *Pair
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
	err := s.pair.Changes(w.ctx, func(c Change) error {
		sub := &step{parent: s, path: s.join(c.Name), name: c.Name, pair: c.Sub}
		if c.Sub != nil {
			defer c.Sub.Close()
		}
		if c.Kind != Unchanged {
			if err := w.report(s); err != nil {
				return err
			}
			if err := w.item(&c, sub.path); err != nil {
				return err
			}
			sub.reported = true
		}
		if c.Sub == nil {
			return nil
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
	return w.fn(Item{Path: s.path, Change: Change{Kind: Modify, Name: s.name, Type: unix.S_IFDIR, Sub: s.pair}})
}

func (w *walker) item(c *Change, path string) error {
	i := Item{Change: *c, Path: path}
	if c.Kind != Delete && c.Sub == nil {
		st, err := c.Stat()
		if err != nil {
			return err
		}
		if st.Nlink > 1 {
			id := inode{st.Dev, st.Ino}
			if i.Link = w.seen[id]; i.Link == "" {
				w.seen[id] = path
			}
		}
	}
	return w.fn(i)
}
