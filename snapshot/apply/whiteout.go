package apply

import (
	"archive/tar"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkg/errors"
)

// How an archive says what a layer deletes (image specification, "whiteouts").
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = whiteoutPrefix + whiteoutPrefix
	opaqueName     = metaPrefix + ".opq"
)

type markKind int

const (
	none markKind = iota
	// deleted marks one name.
	deleted
	// opaqueDir marks everything in a directory.
	opaqueDir
	// reserved is a name that AUFS used for itself.
	reserved
)

// markOf tells what the last component of a name marks, and returns the name that is meant.
func markOf(entry, base string) (markKind, string, error) {
	switch {
	case !strings.HasPrefix(base, whiteoutPrefix):
		return none, base, nil
	case base == opaqueName:
		return opaqueDir, "", nil
	case strings.HasPrefix(base, metaPrefix):
		return reserved, "", nil
	}
	base = strings.TrimPrefix(base, whiteoutPrefix)
	if base == "" || base == "." || base == ".." {
		return none, "", refuse(entry, "it is a whiteout of nothing")
	}
	return deleted, base, nil
}

// whiteout notes a mark for convert, which containerd calls next.
func (l *layer) whiteout(entry string, kind markKind, parent place, base string) error {
	l.mark = nil
	if kind == opaqueDir {
		if l.detached && parent.node == l.tree {
			return needsParent(entry, "the root of a layer cannot be opaque")
		}
		l.markDir(parent)
		return nil
	}
	at := place{name: filepath.Join(parent.name, base), node: parent.node.children[base]}
	switch {
	case at.node != nil && at.node.isDir():
		l.markDir(at)
	case at.node != nil: // the layer's own file, or an earlier whiteout, hides the lower one already
	case l.detached:
		at.node = parent.node.put(base, &written{kind: whiteout})
		l.mark = &mark{place: at, in: parent}
	default:
		l.mark = &mark{place: at}
	}
	return nil
}

// markDir notes that nothing of the layers below is left in a directory.
func (l *layer) markDir(at place) {
	if l.detached {
		l.hideLower(at)
		return
	}
	l.mark = &mark{place: at, opaque: true}
}

// convert is called for each entry that the filter let pass, with the path that it would have. It returns whether the entry is
// to be written.
func (l *layer) convert(hdr *tar.Header, _ string) (bool, error) {
	if !strings.HasPrefix(filepath.Base(hdr.Name), whiteoutPrefix) {
		return true, nil
	}
	m := l.mark
	if m == nil {
		return false, nil
	}
	l.mark = nil
	path := filepath.Join(l.root, m.name)
	switch {
	case m.opaque:
		return false, clearDir(path, m.node)
	case l.detached:
		if in := m.in.node; in != l.tree && !in.marked {
			if err := markHolder(filepath.Join(l.root, m.in.name)); err != nil {
				return false, err
			}
			in.marked = true
		}
		return false, makeWhiteout(path)
	}
	return false, errors.WithStack(os.RemoveAll(path))
}

// clearDir removes what the layer has not written itself.
func clearDir(path string, node *written) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.WithStack(err)
	}
	for _, e := range entries {
		below := filepath.Join(path, e.Name())
		child := node.children[e.Name()]
		switch {
		case child == nil:
			err = os.RemoveAll(below)
		case child.isDir():
			err = clearDir(below, child)
		}
		if err != nil {
			return errors.WithStack(err)
		}
	}
	return nil
}
