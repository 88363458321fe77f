package tree

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/continuity/sysx"
	"github.com/pkg/errors"
)

// Tree is what a directory holds, by path. Of several names of one file the first in order has its kind
// and the others are hard links to it; the root is ".".
type Tree map[string]Entry

// Read reads the tree below dir. It opens no fifo and no device. Attributes that the kernel keeps to
// itself ("trusted." for ordinary users, overlayfs's own) are as the system shows them.
func Read(dir string) (Tree, error) {
	t := Tree{}
	names := map[inode]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e, err := read(path, info)
		if err != nil {
			return err
		}
		e.Path = filepath.ToSlash(rel)
		if id, linked := e.system(info); linked {
			if first, ok := names[id]; ok {
				e = Entry{Path: e.Path, Kind: KindHardlink, Target: first}
			} else {
				names[id] = e.Path
			}
		}
		t[e.Path] = e
		return nil
	})
	return t, errors.Wrapf(err, "reading the tree %s", dir)
}

func read(path string, info fs.FileInfo) (e Entry, err error) {
	e.Mode = info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	e.ModTime = info.ModTime()
	switch mode := info.Mode(); {
	case mode.IsRegular():
		data, readErr := os.ReadFile(path)
		e.Kind, e.Data, err = KindFile, string(data), readErr
	case mode.IsDir():
		e.Kind = KindDir
	case mode&fs.ModeSymlink != 0:
		e.Kind, e.Mode = KindSymlink, 0
		e.Target, err = os.Readlink(path)
	case mode&fs.ModeNamedPipe != 0:
		e.Kind = KindFifo
	case mode&fs.ModeCharDevice != 0:
		e.Kind = KindChar
	case mode&fs.ModeDevice != 0:
		e.Kind = KindBlock
	case mode&fs.ModeSocket != 0:
		e.Kind = KindSocket
	default:
		e.Kind = KindOther
	}
	if err != nil {
		return e, err
	}
	names, err := sysx.LListxattr(path)
	if err != nil && !unsupported(err) {
		return e, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue // how XFS shows, once more, what the system.posix_acl_ attributes hold
		}
		value, err := sysx.LGetxattr(path, name)
		if err != nil {
			return e, err
		}
		Xattr(name, string(value))(&e)
	}
	return e, nil
}

// Aspect is something that Diff may be told to look over.
type Aspect int

// The aspects.
const (
	// Times: modification times.
	Times Aspect = iota
	// Owners: users and groups.
	Owners
	// Root: everything about the root directory itself but that it is one.
	Root
	// DirTimes: modification times of directories.
	DirTimes
	// Links: which names are of one file. A hard link counts as a file of its own.
	Links
)

// Diff lists how got differs from want, by path, except for the aspects given. Empty means equal.
func Diff(want, got Tree, except ...Aspect) []string {
	skip := map[Aspect]bool{}
	for _, a := range except {
		skip[a] = true
	}
	if skip[Links] {
		want, got = want.unlinked(), got.unlinked()
	}
	paths := maps.Clone(want)
	maps.Copy(paths, got)
	var diffs []string
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		w, inWant := want[path]
		g, inGot := got[path]
		switch {
		case !inGot:
			diffs = append(diffs, fmt.Sprintf("%s: %s is missing", path, w.Kind))
		case !inWant:
			diffs = append(diffs, fmt.Sprintf("%s: unexpected %s", path, g.Kind))
		case w.Kind != g.Kind:
			diffs = append(diffs, fmt.Sprintf("%s: %s instead of %s", path, g.Kind, w.Kind))
		case path == "." && skip[Root]:
		default:
			diffs = append(diffs, w.diff(g, skip)...)
		}
	}
	return diffs
}

// Resolve returns what is at path; for a hard link what it is another name of, under this name.
func (t Tree) Resolve(path string) (Entry, bool) {
	e, ok := t[path]
	if ok && e.Kind == KindHardlink {
		e, ok = t[e.Target]
		e.Path = path
	}
	return e, ok
}

// Entries returns all entries in an order in which Write can make them.
func (t Tree) Entries() []Entry {
	entries := make([]Entry, 0, len(t))
	for _, path := range slices.Sorted(maps.Keys(t)) {
		entries = append(entries, t[path])
	}
	return entries
}

// unlinked returns the tree with a file in place of each hard link.
func (t Tree) unlinked() Tree {
	out := make(Tree, len(t))
	for path := range t {
		if e, ok := t.Resolve(path); ok {
			out[path] = e
		} else {
			out[path] = t[path]
		}
	}
	return out
}

// diff compares two entries of the same path and kind.
func (e Entry) diff(got Entry, skip map[Aspect]bool) (diffs []string) {
	compare := func(what string, want, got any, equal bool) {
		if !equal {
			diffs = append(diffs, fmt.Sprintf("%s: %s is %v instead of %v", e.Path, what, got, want))
		}
	}
	compare("content", abbreviate(e.Data), abbreviate(got.Data), e.Data == got.Data)
	compare("target", e.Target, got.Target, e.Target == got.Target)
	compare("mode", e.Mode, got.Mode, e.Mode == got.Mode)
	compare("device", [2]uint32{e.Major, e.Minor}, [2]uint32{got.Major, got.Minor}, e.Major == got.Major && e.Minor == got.Minor)
	compare("attributes", e.Xattrs, got.Xattrs, maps.Equal(e.Xattrs, got.Xattrs))
	if !skip[Owners] {
		compare("owner", [2]int{e.UID, e.GID}, [2]int{got.UID, got.GID}, e.UID == got.UID && e.GID == got.GID)
	}
	if !skip[Times] && !(skip[DirTimes] && e.Kind == KindDir) {
		compare("time", e.ModTime, got.ModTime, e.ModTime.Equal(got.ModTime))
	}
	return diffs
}

func abbreviate(data string) string {
	const most = 60
	if len(data) > most {
		return fmt.Sprintf("%q... (%d bytes)", data[:most], len(data))
	}
	return fmt.Sprintf("%q", data)
}

// Changed calls fn and returns what it changed below dir, in the words of Diff: nothing if every name, kind, mode, owner, time, content,
// link and attribute is as it was.
func Changed(dir string, fn func()) ([]string, error) {
	before, err := Read(dir)
	if err != nil {
		return nil, err
	}
	fn()
	after, err := Read(dir)
	return Diff(before, after), err
}
