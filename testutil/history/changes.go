package history

import (
	"maps"
	"path"
	"slices"

	"github.com/layercache/cache/testutil/tree"
)

// capability is the attribute that counts when files are compared. No other does (spec DIF-7).
const capability = "security.capability"

// Change is one entry of a list of changes.
type Change struct {
	// Entry is what is there now. A hard link's target is an earlier entry of the same list. For a deletion it has the
	// path only.
	Entry  tree.Entry
	Delete bool
	// Gone names the attributes of a directory that it had before and has no more.
	Gone []string
}

// Changes lists what makes lower into upper, parents before what is in them. The root is never a change.
// What counts as equal, which directories are reported besides, and which hard links are kept is spec DIF-4 to DIF-7.
func Changes(lower, upper tree.Tree) []Change {
	reported := map[string]Change{}
	for p := range upper {
		e, ok := upper.Resolve(p)
		if p == "." || !ok {
			continue
		}
		if old, ok := lower.Resolve(p); !ok || !equal(old, e) {
			report(reported, lower, upper, p)
		}
	}
	for p := range lower {
		if _, ok := upper[p]; ok || p == "." {
			continue
		}
		if dir, ok := upper[path.Dir(p)]; ok && dir.Kind == tree.KindDir { // else it went with its directory
			reported[p] = Change{Entry: tree.Entry{Path: p}, Delete: true}
			report(reported, lower, upper, path.Dir(p))
		}
	}
	list := make([]Change, 0, len(reported))
	first := map[string]string{} // by the name of the group in upper, the first that is reported
	for _, p := range slices.Sorted(maps.Keys(reported)) {
		c := reported[p]
		if !c.Delete && linkable(c.Entry.Kind) {
			group := p
			if upper[p].Kind == tree.KindHardlink {
				group = upper[p].Target
			}
			if at, ok := first[group]; ok {
				c.Entry = tree.Hardlink(p, at)
			} else {
				first[group] = p
			}
		}
		list = append(list, c)
	}
	return list
}

// report adds p as it is in upper, and the directories it is in.
func report(reported map[string]Change, lower, upper tree.Tree, p string) {
	for ; p != "."; p = path.Dir(p) {
		e, ok := upper.Resolve(p)
		if _, known := reported[p]; known || !ok {
			continue
		}
		c := Change{Entry: e}
		if old, ok := lower[p]; ok && e.Kind == tree.KindDir && old.Kind == tree.KindDir {
			for name := range old.Xattrs {
				if _, ok := e.Xattrs[name]; !ok {
					c.Gone = append(c.Gone, name)
				}
			}
			slices.Sort(c.Gone)
		}
		reported[p] = c
	}
}

// linkable tells what hard links are kept of (spec APP-5).
func linkable(k tree.Kind) bool {
	return k != tree.KindDir && k != tree.KindFifo && k != tree.KindSocket
}

// equal is spec DIF-7.
func equal(a, b tree.Entry) bool {
	if a.Kind != b.Kind || a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Major != b.Major || a.Minor != b.Minor ||
		a.Xattrs[capability] != b.Xattrs[capability] {
		return false
	}
	if a.Kind == tree.KindDir {
		return true
	}
	if len(a.Data) != len(b.Data) || len(a.Target) != len(b.Target) || !a.ModTime.Equal(b.ModTime) {
		return false
	}
	return a.ModTime.Nanosecond() != 0 || a.Data == b.Data && a.Target == b.Target
}

// Visible returns upper as far as Changes can tell it from lower: what is not reported stays as it was. Applying the changes to lower gives this
// tree. Which names are of one file is not in it; all are given as files of their own.
func Visible(lower, upper tree.Tree) tree.Tree {
	from := map[string]tree.Tree{".": upper}
	for p := range upper {
		if p != "." {
			from[p] = lower
		}
	}
	for _, c := range Changes(lower, upper) {
		if !c.Delete {
			from[c.Entry.Path] = upper
		}
	}
	out := tree.Tree{}
	for p, t := range from {
		if e, ok := t.Resolve(p); ok {
			out[p] = e
		}
	}
	return out
}
