//go:build linux

package treediff

import (
	"context"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Kind is what became of a name.
type Kind uint8

const (
	// Unchanged is reported for directories, as there may be changes in them, and by Walk for other names of a file that changed.
	Unchanged Kind = iota
	// Add is a name that only the upper tree has.
	Add
	// Modify is a name that both have, for different things.
	Modify
	// Delete is a name that only the lower tree has.
	Delete
)

func (k Kind) String() string {
	return [...]string{"unchanged", "add", "modify", "delete"}[k&3]
}

// Pair is a directory of the upper tree, and what the lower tree has of that path if it is a directory. Either
// may have no such directory; only the root of a pair of trees may lack the upper one.
type Pair struct {
	Upper, Lower *Dir
}

// OpenPair opens the roots of two trees.
func OpenPair(lower, upper Layers) (*Pair, error) {
	roots := map[string]*layer{}
	u, err := open(upper, roots)
	if err != nil {
		return nil, err
	}
	l, err := open(lower, roots)
	if err != nil {
		u.Close()
		return nil, err
	}
	return &Pair{Upper: u, Lower: l}, nil
}

// Close gives both directories back.
func (p *Pair) Close() {
	p.Upper.Close()
	p.Lower.Close()
}

// Change is one name of a directory and what became of it.
type Change struct {
	Kind Kind
	Name string
	// Type is the file type in the upper tree, as in a mode (S_IFREG and so on); 0 for Delete.
	Type uint32
	// Sub is the directory of that name, if it is one in the upper tree: open, and the receiver's to close.
	Sub *Pair

	upper *entry
	// mark is the upper tree's mark of the deletion.
	mark *entry
}

// At returns where a file that is not a directory lies: the descriptor of a directory and the name in it. The descriptor is good as
// long as the Pair is open.
func (c *Change) At() (dirfd int, name string) { return c.upper.in.fd, c.upper.name }

// Stat describes the file in the upper tree. The result must not be changed.
func (c *Change) Stat() (*unix.Stat_t, error) {
	if c.Sub != nil {
		return c.Sub.Upper.Stat(), nil
	}
	return c.upper.stat()
}

// Mark returns where the upper tree has a mark for a deletion; false if it has none.
func (c *Change) Mark() (dirfd int, name string, ok bool) {
	if c.mark == nil {
		return -1, "", false
	}
	return c.mark.in.fd, c.mark.name, true
}

// Changes calls yield for each name of the directory that changed, and for each directory that may have changes in it, in the order
// of names. It ends with the first error, which it returns, and with the context.
//
// Equal are two files of the same type, mode, owner, device number and file capability, and if they are not directories,
// size and modification time; where neither time has nanoseconds, the content decides (spec DIF-7).
func (p *Pair) Changes(ctx context.Context, yield func(c Change) error) error {
	return p.changes(ctx, false, yield)
}

// changes yields, if linked is set, unchanged files of several names as well.
func (p *Pair) changes(ctx context.Context, linked bool, yield func(c Change) error) error {
	var up, low stack
	up.set(p.Upper)
	low.set(p.Lower)
	shared := common(up.layers, low.layers)
	up.own, low.own = len(up.layers)-shared, len(low.layers)-shared
	var err error
	if up.list, err = listAll(up.layers[:up.own]); err != nil {
		return err
	}
	if low.list, err = listAll(low.layers[:low.own]); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		name, ok := first(&up, &low)
		if !ok {
			return nil
		}
		if err := compare(ctx, name, &up, &low, linked, yield); err != nil {
			return err
		}
	}
}

// stack is one side of a comparison.
type stack struct {
	marks  Marks
	layers []*layer
	// own is how many of the layers the other side does not share. List is what is left of their entries.
	own  int
	list []dirent
}

func (s *stack) set(d *Dir) {
	if d != nil {
		s.marks, s.layers = d.marks, d.layers
	}
}

// first returns the next name of the two lists.
func first(a, b *stack) (string, bool) {
	switch {
	case len(a.list) == 0 && len(b.list) == 0:
		return "", false
	case len(a.list) == 0:
		return b.list[0].name, true
	case len(b.list) == 0:
		return a.list[0].name, true
	}
	return min(a.list[0].name, b.list[0].name), true
}

// found is what one side has under a name.
type found struct {
	// entry is nil if the name does not exist there.
	entry *entry
	// mark is the entry that hides the name.
	mark *entry
	// dirs are the layers, by their place in the stack, that have a directory of that name, as far as the lists say. Goes
	// further down says that the shared layers have not been looked at.
	dirs  []int32
	lower bool
}

// take removes the entries called name from the list and tells what they mean.
func (s *stack) take(name string) (f found, err error) {
	n := 0
	for n < len(s.list) && s.list[n].name == name {
		n++
	}
	entries := s.list[:n]
	s.list = s.list[n:]
	if n == 0 {
		f.lower = true
		f.entry, err = lookup(s.layers[s.own:], s.marks, name)
		return f, err
	}
	e := &entry{in: s.layers[entries[0].layer], name: name, typ: entries[0].typ}
	gone, err := e.whiteout(s.marks)
	if err != nil {
		return f, err
	}
	if gone {
		f.mark = e
		return f, nil
	}
	f.entry = e
	for _, d := range entries {
		if d.typ != unix.S_IFDIR {
			return f, nil
		}
		f.dirs = append(f.dirs, d.layer)
	}
	f.lower = true
	return f, nil
}

func (f *found) isDir() bool { return f.entry != nil && f.entry.typ == unix.S_IFDIR }

// compare looks at one name on both sides.
func compare(ctx context.Context, name string, up, low *stack, linked bool, yield func(c Change) error) error {
	u, err := up.take(name)
	if err != nil {
		return err
	}
	l, err := low.take(name)
	if err != nil {
		return err
	}
	switch {
	case u.entry == nil && l.entry == nil:
		return nil
	case u.entry == nil:
		return yield(Change{Kind: Delete, Name: name, mark: u.mark})
	case u.isDir():
		return compareDir(ctx, name, up, low, &u, &l, yield)
	}
	c := Change{Kind: Add, Name: name, Type: u.entry.typ, upper: u.entry}
	if l.entry != nil {
		c.Kind = Modify
		if l.entry.typ == u.entry.typ {
			equal, err := same(ctx, u.entry, l.entry)
			if err != nil {
				return errors.WithMessagef(err, "comparing %q", name)
			}
			if equal {
				if !linked || u.entry.st.Nlink < 2 {
					return nil
				}
				c.Kind = Unchanged
			}
		}
	}
	return yield(c)
}

// compareDir looks at a directory of the upper tree.
func compareDir(ctx context.Context, name string, up, low *stack, u, l *found, yield func(c Change) error) error {
	sub := &Pair{Upper: &Dir{marks: up.marks}}
	passOn := false
	defer func() {
		if !passOn {
			sub.Close()
		}
	}()
	var err error
	var shared []*layer // what both have of that name in the layers that they share
	opened := false
	open := func(s *stack, f *found) ([]*layer, error) {
		layers, cut, err := openListed(s, f, name)
		if err != nil || cut || !f.lower {
			return layers, err
		}
		if !opened {
			opened = true
			if shared, err = openSubs(nil, s.layers[s.own:], s.marks, name); err != nil {
				dropAll(layers)
				return nil, err
			}
		}
		for _, s := range shared {
			layers = append(layers, s.hold())
		}
		return layers, nil
	}
	defer func() { dropAll(shared) }()
	if sub.Upper.layers, err = open(up, u); err != nil {
		return err
	}
	c := Change{Kind: Add, Name: name, Type: unix.S_IFDIR, Sub: sub}
	if l.isDir() {
		sub.Lower = &Dir{marks: low.marks}
		if sub.Lower.layers, err = open(low, l); err != nil {
			return err
		}
		if equalStacks(sub.Upper.layers, sub.Lower.layers) {
			return nil
		}
		equal, err := sameDir(sub.Upper.layers[0], sub.Lower.layers[0])
		if err != nil {
			return errors.WithMessagef(err, "comparing %q", name)
		}
		c.Kind = Modify
		if equal {
			c.Kind = Unchanged
		}
	} else if l.entry != nil {
		c.Kind = Modify
	}
	passOn = true
	return yield(c)
}

// openListed opens the directories called name in those layers whose lists have it. Cut says that nothing below them shows through.
func openListed(s *stack, f *found, name string) (layers []*layer, cut bool, err error) {
	for _, index := range f.dirs {
		sub, err := openLayer(s.layers[index].fd, name, openDir)
		if err != nil {
			dropAll(layers)
			return nil, false, errors.Wrapf(err, "opening directory %q", name)
		}
		layers = append(layers, sub)
		if s.marks == Plain && len(s.layers) == 1 {
			return layers, false, nil // there is nothing that it could hide
		}
		opaque, err := sub.opaque(s.marks)
		if err != nil {
			dropAll(layers)
			return nil, false, errors.WithMessagef(err, "directory %q", name)
		}
		if opaque {
			return layers, true, nil
		}
	}
	return layers, false, nil
}
