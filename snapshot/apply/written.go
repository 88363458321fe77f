package apply

import (
	"archive/tar"
	"io/fs"
	"time"
)

// written is what the layer has said so far of one path: a tree, with the root of the file tree at its root.
type written struct {
	kind     writtenKind
	children map[string]*written
	// headers are those of a directory, which containerd goes back to in the end, to set the times.
	headers []*tar.Header
	// opaque says that nothing of the directories below shows through.
	opaque bool
	// marked says that the directory may hold whiteouts and looks so to the kernel.
	marked bool
	// gone says that something else took the path.
	gone bool
	// waits says that mode is yet to be set.
	waits bool
	mode  fs.FileMode
}

type writtenKind int

const (
	// implied is a directory that only stands in the names of other entries.
	implied writtenKind = iota
	// listed is a directory with an entry of its own.
	listed
	// other is everything that is not a directory.
	other
	// whiteout is a mark that something below is deleted.
	whiteout
)

func (w *written) isDir() bool { return w.kind == implied || w.kind == listed }

func (w *written) put(name string, child *written) *written {
	if w.children == nil {
		w.children = map[string]*written{}
	}
	w.children[name] = child
	return child
}

// drop notes that the path, with all below, is something else from now on. Containerd would set times by the
// headers of directories all the same; they are made to mean the root, whose times say nothing.
func (w *written) drop() {
	w.gone = true
	for _, hdr := range w.headers {
		hdr.Name, hdr.ModTime, hdr.AccessTime = ".", time.Now(), time.Now()
	}
	for _, child := range w.children {
		child.drop()
	}
}
