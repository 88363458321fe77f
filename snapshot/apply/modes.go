package apply

import (
	"archive/tar"
	"io/fs"
	"os"
	"slices"

	"github.com/pkg/errors"
)

// widen lets the owner do with a file or directory what unpacking takes, if the process has no other right to it. A squashed
// tree stays so; any other one gets its modes in the end.
func (l *layer) widen(hdr *tar.Header, at place) {
	if !l.squash && l.rights.override {
		return
	}
	need := int64(0)
	switch hdr.Typeflag {
	case tar.TypeDir:
		need = 0o700 // to make entries in it
	case tar.TypeReg, tar.TypeLink, tar.TypeFifo:
		if l.squash {
			need = 0o400 // for whoever copies it
		}
		if userXattrs(hdr) {
			need |= 0o200
		}
	}
	// A further name, or listing, of what waits already has a say in what it gets.
	again := at.node.waits || hdr.Typeflag == tar.TypeLink
	if !l.squash && (again || hdr.Mode&need != need) {
		if !at.node.waits {
			l.waiting = append(l.waiting, at)
		}
		at.node.waits, at.node.mode = true, hdr.FileInfo().Mode()
	}
	l.squashed = l.squashed || l.squash && hdr.Mode&need != need
	hdr.Mode |= need
}

// setModes gives entries the modes that unpacking could not do with: files in their order, so that the last name of a file
// decides as it always does, then directories, from the inside out.
func (l *layer) setModes() error {
	if len(l.waiting) == 0 {
		return nil
	}
	root, err := os.OpenRoot(l.root)
	if err != nil {
		return errors.WithStack(err)
	}
	defer root.Close()
	for _, at := range l.waiting {
		if at.node.kind == other {
			if err := setMode(root, at); err != nil {
				return err
			}
		}
	}
	for _, at := range slices.Backward(l.waiting) {
		if at.node.isDir() {
			if err := setMode(root, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func setMode(root *os.Root, at place) error {
	if at.node.gone {
		return nil
	}
	info, err := root.Lstat(at.name)
	if err == nil && info.Mode()&fs.ModeSymlink == 0 { // a further name of one has no mode
		err = root.Chmod(at.name, at.node.mode)
	}
	return errors.Wrap(err, "setting a mode")
}
