package apply

import (
	"archive/tar"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	cfs "github.com/containerd/continuity/fs"
	"github.com/pkg/errors"
)

// layer looks at the entries of an archive before containerd writes them to root, and sees to what containerd
// does not: the filter comes first, then, for whiteouts, convert, and finish after the last entry.
type layer struct {
	root     string
	detached bool
	squash   bool
	squashed bool // the tree differs from the layer
	rights   rights
	keep     func(*tar.Header) bool // nil for all

	tree *written
	// mark is the whiteout that the filter has let pass, until convert has seen to it.
	mark *mark
	// opaques are the directories to be marked in the end, of a detached layer.
	opaques []place
	// waiting are the entries whose modes are set in the end.
	waiting []place
}

// place is a path below the root and what was written there.
type place struct {
	name string // with the system's separators; every component but the last is a directory
	node *written
}

// mark is a deletion. Its place is the directory itself for an opaque marker; the node is nil if the layer
// has written nothing there.
type mark struct {
	place
	opaque bool
	// in is the directory that gets the whiteout of a detached layer.
	in place
}

func newLayer(root string, detached, squash bool) *layer {
	return &layer{root: root, detached: detached, squash: squash, rights: processRights(), tree: &written{kind: listed}}
}

// filter decides on an entry, whose name containerd has cleaned. What it changes in the header is what is written.
func (l *layer) filter(hdr *tar.Header) (bool, error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return false, nil // containerd would make room for it by removing what has its name
	}
	if l.keep != nil && !l.keep(hdr) {
		return false, nil
	}
	parts, err := splitName(hdr)
	if err != nil || parts == nil {
		return false, err
	}
	dirs, base := parts[:len(parts)-1], parts[len(parts)-1]
	mark, base, err := markOf(hdr.Name, base)
	if err != nil || mark == reserved {
		return false, err
	}
	original := hdr.Name
	parent, err := l.parent(original, dirs)
	if err != nil {
		return false, err
	}
	dir := parent.name
	if mark != none {
		hdr.Name = filepath.Join(dir, filepath.Base(hdr.Name))
		return true, l.whiteout(original, mark, parent, base)
	}
	at := place{name: filepath.Join(dir, base), node: parent.node.children[base]}
	hdr.Name = at.name
	if accept, err := l.check(original, hdr, at); err != nil || !accept {
		return false, err
	}
	l.write(hdr, parent.node, base, at)
	return true, nil
}

// write notes that an entry is going to be written at a place.
func (l *layer) write(hdr *tar.Header, parent *written, base string, at place) {
	prior := at.node
	if hdr.Typeflag != tar.TypeDir {
		if prior != nil {
			prior.drop()
		}
		at.node = parent.put(base, &written{kind: other})
		l.widen(hdr, at)
		return
	}
	if prior == nil || !prior.isDir() {
		at.node = parent.put(base, &written{})
		if prior != nil {
			prior.drop()
			l.hideLower(at) // what a former entry hid must not show through this one
		}
	}
	at.node.kind = listed
	at.node.headers = append(at.node.headers, hdr)
	l.widen(hdr, at)
}

// hideLower makes a directory of a detached layer opaque in the end. Elsewhere the files are gone for good.
func (l *layer) hideLower(at place) {
	if l.detached && !at.node.opaque {
		at.node.opaque = true
		l.opaques = append(l.opaques, at)
	}
}

// parent finds the directory that an entry lies in.
//
// As long as the layer has listed every directory on the way, the name is the place. Otherwise symbolic links are followed, in the
// tree as it is now and within its root; a detached layer has not got that tree.
func (l *layer) parent(name string, dirs []string) (place, error) {
	at := place{node: l.tree}
	known := true
	for _, dir := range dirs {
		next := at.node.children[dir]
		if next == nil || !next.isDir() {
			known = false
			break
		}
		at = place{name: filepath.Join(at.name, dir), node: next}
	}
	if known {
		return at, nil
	}
	if l.detached {
		return place{}, needsParent(name, "the layer does not list its directory")
	}
	return l.resolve(name, dirs)
}

// resolve follows the symbolic links in a directory's name.
func (l *layer) resolve(name string, dirs []string) (place, error) {
	resolved, err := cfs.RootPath(l.root, filepath.Join(dirs...))
	if err != nil {
		if _, ok := systemError(err); ok {
			return place{}, err
		}
		return place{}, refuse(name, err.Error()) // too many links
	}
	rel, err := filepath.Rel(l.root, resolved)
	if err != nil || !filepath.IsLocal(rel) {
		return place{}, refuse(name, "its directory is outside of the tree")
	}
	at := place{node: l.tree}
	if rel == "." {
		return at, nil
	}
	for _, dir := range strings.Split(rel, string(filepath.Separator)) {
		next := at.node.children[dir]
		if next != nil && !next.isDir() {
			return place{}, refuse(name, "its directory is a file")
		}
		if next == nil {
			next = at.node.put(dir, &written{})
		}
		at = place{name: filepath.Join(at.name, dir), node: next}
	}
	return at, nil
}

// existing finds what a hard link names and tells whether that can be linked to.
func (l *layer) existing(entry string, target []string) (place, error) {
	parent, err := l.parent(entry, target[:len(target)-1])
	if err != nil {
		return place{}, err
	}
	base := target[len(target)-1]
	at := place{name: filepath.Join(parent.name, base), node: parent.node.children[base]}
	switch {
	case at.node != nil && at.node.isDir():
		return place{}, refuse(entry, "it is a hard link to a directory")
	case at.node != nil && at.node.kind == other:
		return at, nil
	case l.detached:
		return place{}, needsParent(entry, "it is a hard link to what another layer holds")
	}
	info, err := os.Lstat(filepath.Join(l.root, at.name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return place{}, refuse(entry, "it is a hard link to nothing")
	case err != nil:
		return place{}, err
	case info.IsDir():
		return place{}, refuse(entry, "it is a hard link to a directory")
	}
	return at, nil
}

// finish does what has to wait for the last entry.
func (l *layer) finish() error {
	for _, at := range l.opaques {
		if at.node.gone {
			continue
		}
		if err := markOpaque(filepath.Join(l.root, at.name)); err != nil {
			return errors.Wrapf(err, "marking directory %s as opaque", quote(filepath.ToSlash(at.name)))
		}
	}
	return l.setModes()
}

// splitName checks a name and cuts it into its components. Nil is the root, whose attributes belong to the snapshot.
func splitName(hdr *tar.Header) ([]string, error) {
	name := filepath.ToSlash(hdr.Name)
	parts, err := components(hdr.Name, name)
	if err != nil {
		return nil, err
	}
	if parts == nil && hdr.Typeflag != tar.TypeDir {
		return nil, refuse(hdr.Name, "it has no name")
	}
	return parts, nil
}

// components cuts a path of an archive into its components, nil for the root. Entry is named in errors.
func components(entry, name string) ([]string, error) {
	if strings.ContainsRune(name, 0) {
		return nil, refuse(entry, "a NUL in the name")
	}
	if len(name) > maxName {
		return nil, refuse(entry, "the name is too long")
	}
	// Lexically, as everybody takes them; the root's parent is the root for absolute names only.
	name = path.Clean(name)
	if name == ".." || strings.HasPrefix(name, "../") {
		return nil, refuse(entry, "the name leads out of the tree")
	}
	if name = strings.TrimPrefix(name, "/"); name == "" || name == "." {
		return nil, nil
	}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if strings.HasPrefix(part, whiteoutPrefix) {
			if !last {
				return nil, refuse(entry, "it lies below a whiteout")
			}
			part = strings.TrimPrefix(part, whiteoutPrefix)
		}
		if len(part) > maxComponent {
			return nil, refuse(entry, "a component of the name is too long")
		}
		if !systemName(part) {
			return nil, refuse(entry, "this system has no such names")
		}
	}
	return parts, nil
}

// Lengths in bytes. Systems take 4096 for a whole path; the rest is for the place where the tree lies, so that an entry is not
// refused in one place and taken in another.
const (
	maxName      = 4096 - 256
	maxComponent = 255
	maxTarget    = 4095
)
