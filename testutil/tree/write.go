package tree

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/continuity/sysx"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Write makes the entries below dir, which must exist, in their order. A declared directory may exist
// already; anything else must not. Owners, attributes and modes are set when all entries are there, so that a directory
// passes nothing on to what is in it (default ACLs, the setgid bit), and times last, so that those of directories hold.
// It is an invalid argument if a path leads out of dir, and "not implemented" if the system does not
// know the kind of entry.
func Write(dir string, entries ...Entry) error {
	for _, e := range entries {
		if !filepath.IsLocal(filepath.FromSlash(e.Path)) {
			return errors.Wrapf(errdefs.ErrInvalidArgument, "path %q", e.Path)
		}
		path := filepath.Join(dir, filepath.FromSlash(e.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return errors.WithStack(err)
		}
		if err := e.make(dir, path); err != nil {
			return errors.Wrapf(err, "%s %q", e.Kind, e.Path)
		}
	}
	for _, e := range slices.Backward(entries) { // contents first: a mode may lock a directory
		if e.Kind == KindHardlink {
			continue
		}
		if err := e.dress(filepath.Join(dir, filepath.FromSlash(e.Path))); err != nil {
			return errors.Wrapf(err, "%s %q", e.Kind, e.Path)
		}
	}
	for _, e := range slices.Backward(entries) {
		if e.ModTime.IsZero() {
			continue
		}
		if err := setTime(filepath.Join(dir, filepath.FromSlash(e.Path)), e.ModTime); err != nil {
			return errors.Wrapf(err, "time of %q", e.Path)
		}
	}
	return nil
}

func (e Entry) make(dir, path string) error {
	switch e.Kind {
	case KindFile:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err := f.WriteString(e.Data); err != nil {
			_ = f.Close() // err is what counts
			return err
		}
		return f.Close()
	case KindDir:
		err := os.Mkdir(path, 0o755)
		if info, statErr := os.Lstat(path); os.IsExist(err) && statErr == nil && info.IsDir() {
			return nil
		}
		return err
	case KindSymlink:
		return os.Symlink(e.Target, path)
	case KindHardlink:
		if !filepath.IsLocal(filepath.FromSlash(e.Target)) {
			return errors.Wrapf(errdefs.ErrInvalidArgument, "target %q", e.Target)
		}
		return os.Link(filepath.Join(dir, filepath.FromSlash(e.Target)), path)
	case KindFifo, KindChar, KindBlock, KindSocket:
		return makeSpecial(path, e)
	}
	return errors.Wrapf(errdefs.ErrInvalidArgument, "a directory cannot hold a %s", e.Kind)
}

// dress gives what was made its owner, attributes and mode, in this order: a new owner clears setuid, and
// a mode may forbid setting attributes.
func (e Entry) dress(path string) error {
	if e.owned {
		if err := os.Lchown(path, e.UID, e.GID); err != nil {
			return err
		}
	}
	for name, value := range e.Xattrs {
		if err := sysx.LSetxattr(path, name, []byte(value), 0); err != nil {
			return errors.Wrapf(err, "attribute %s", name)
		}
	}
	if e.Kind == KindSymlink {
		return nil
	}
	return os.Chmod(path, e.Mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}
