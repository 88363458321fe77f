//go:build linux

package treediff

import (
	"slices"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Dir is an open directory of a tree: the stack of those that are merged in it. A nil *Dir has no entries.
type Dir struct {
	marks Marks
	// layers are the topmost first.
	layers []*layer
}

// Open opens the root of a tree. Its path may lead over symbolic links; nothing that is opened later does.
func Open(at Layers) (*Dir, error) { return open(at, map[string]*layer{}) }

// open shares those layers that are in roots already.
func open(at Layers, roots map[string]*layer) (_ *Dir, err error) {
	d := &Dir{marks: at.Marks}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	for _, path := range at.Dirs {
		l, ok := roots[path]
		if ok {
			l.hold()
		} else {
			if l, err = openLayer(unix.AT_FDCWD, path, openDir&^unix.O_NOFOLLOW); err != nil {
				return nil, errors.Wrapf(err, "opening layer %s", path)
			}
			roots[path] = l
		}
		d.layers = append(d.layers, l)
	}
	return d, nil
}

// Close gives the directory back.
func (d *Dir) Close() {
	if d == nil {
		return
	}
	for _, l := range d.layers {
		l.drop()
	}
	d.layers = nil
}

// Exists tells whether the tree has this directory.
func (d *Dir) Exists() bool { return d != nil && len(d.layers) > 0 }

// Fd returns the topmost directory of the stack, whose attributes are those of the whole. It stays the Dir's.
func (d *Dir) Fd() int { return d.layers[0].fd }

// Stat describes the topmost directory of the stack, as it was when it was opened.
func (d *Dir) Stat() *unix.Stat_t { return &d.layers[0].stat }

// Has tells whether the directory has an entry of that name.
func (d *Dir) Has(name string) (bool, error) {
	if d == nil {
		return false, nil
	}
	e, err := lookup(d.layers, d.marks, name)
	return e != nil, err
}

// Sub opens the directory name. It is nil if there is none of that name, or something else.
func (d *Dir) Sub(name string) (*Dir, error) {
	if d == nil {
		return nil, nil
	}
	sub := &Dir{marks: d.marks}
	var err error
	if sub.layers, err = openSubs(nil, d.layers, d.marks, name); err != nil {
		return nil, err
	}
	if len(sub.layers) == 0 {
		return nil, nil
	}
	return sub, nil
}

// openSubs appends the directories name of a stack, as far down as they show through.
func openSubs(out, layers []*layer, marks Marks, name string) ([]*layer, error) {
	for i, l := range layers {
		sub, err := openLayer(l.fd, name, openDir)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return out, nil // a file or a mark hides what is below
		case err != nil:
			dropAll(out)
			return nil, errors.Wrapf(err, "opening directory %q", name)
		}
		out = append(out, sub)
		if last := i == len(layers)-1; last && len(out) == 1 {
			return out, nil // there is nothing that it could hide
		}
		opaque, err := sub.opaque(marks)
		if err != nil {
			dropAll(out)
			return nil, errors.WithMessagef(err, "directory %q", name)
		}
		if opaque {
			return out, nil
		}
	}
	return out, nil
}

func dropAll(layers []*layer) {
	for _, l := range layers {
		l.drop()
	}
}

// entry is what a tree has under a name.
type entry struct {
	in   *layer
	name string
	typ  uint32
	// stat is nil until it is asked for.
	st *unix.Stat_t
}

func (e *entry) stat() (*unix.Stat_t, error) {
	if e.st != nil {
		return e.st, nil
	}
	st, err := statAt(e.in.fd, e.name)
	if err == nil {
		e.st = st
	}
	return st, err
}

// whiteout tells whether the entry is a mark that the name is deleted.
func (e *entry) whiteout(marks Marks) (bool, error) {
	if e.typ != unix.S_IFCHR || marks == Plain {
		return false, nil
	}
	st, err := e.stat()
	if err != nil {
		return false, err
	}
	return st.Rdev == 0, nil
}

// lookup finds a name in a stack. It is nil if nothing has it.
func lookup(layers []*layer, marks Marks, name string) (*entry, error) {
	for _, l := range layers {
		st, err := statAt(l.fd, name)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return nil, err
		}
		e := &entry{in: l, name: name, typ: st.Mode & unix.S_IFMT, st: st}
		if gone, err := e.whiteout(marks); err != nil || gone {
			return nil, err
		}
		return e, nil
	}
	return nil, nil
}

// common returns how many of the lowest layers two stacks share.
func common(a, b []*layer) int {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}

// equalStacks tells whether two directories are one and the same.
func equalStacks(a, b []*layer) bool { return slices.Equal(a, b) }
