package history

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/pkg/errors"

	"github.com/layercache/cache/testutil/tree"
)

// Records in which the archive says what the format has no place for. They look like attributes.
const (
	recordPrefix = "SCHILY.xattr."
	recordSocket = "history.socket"
	recordGone   = "history.gone."
)

// Pack writes a list of changes as a layer archive.
func Pack(changes []Change) ([]byte, error) {
	entries := make([]tree.Entry, 0, len(changes))
	for _, c := range changes {
		e := c.Entry
		if c.Delete {
			e = tree.Whiteout(e.Path)
		}
		if e.Kind == tree.KindSocket {
			e.Kind = tree.KindFifo
			tree.Xattr(recordSocket, "y")(&e)
		}
		for _, name := range c.Gone {
			tree.Xattr(recordGone+name, "y")(&e)
		}
		entries = append(entries, e)
	}
	return tree.Tar(entries...)
}

// Unpack unpacks a layer archive into dir by path names, one after the other. Whoever has made dir is trusted.
func Unpack(dir string, archive []byte) error {
	type timed struct {
		path string
		at   time.Time
	}
	var dirs []timed
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.WithStack(err)
		}
		name := path.Clean(hdr.Name)
		if in := path.Dir(name); in != "." {
			if info, err := lstat(dir, in); err != nil || info == nil || !info.IsDir() {
				return errors.Errorf("entry %q lies in no directory (%v)", name, err)
			}
		}
		if gone, ok := strings.CutPrefix(path.Base(name), ".wh."); ok {
			if err := os.RemoveAll(filepath.Join(dir, path.Dir(name), gone)); err != nil {
				return errors.WithStack(err)
			}
			continue
		}
		at := filepath.Join(dir, name)
		if err := unpackEntry(dir, at, hdr, r); err != nil {
			return errors.Wrapf(err, "entry %q", name)
		}
		if hdr.Typeflag == tar.TypeDir {
			dirs = append(dirs, timed{at, hdr.ModTime})
		}
	}
	for _, d := range slices.Backward(dirs) {
		if err := setTime(d.path, d.at); err != nil {
			return errors.WithStack(err)
		}
	}
	return nil
}

func unpackEntry(dir, at string, hdr *tar.Header, r io.Reader) error {
	info, err := os.Lstat(at)
	kept := err == nil && info.IsDir() && hdr.Typeflag == tar.TypeDir
	if !kept {
		if err := os.RemoveAll(at); err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeLink {
			return os.Link(filepath.Join(dir, hdr.Linkname), at)
		}
		if err := create(at, hdr, r); err != nil {
			return err
		}
		// What the directory it is in passes on.
		names, err := sysx.LListxattr(at)
		if err != nil && !unsupported(err) {
			return err
		}
		for _, name := range names {
			if err := sysx.LRemovexattr(at, name); err != nil && !noAttribute(err) { // XFS shows ACLs twice
				return errors.Wrapf(err, "removing attribute %s", name)
			}
		}
	}
	return dress(at, hdr)
}

func create(at string, hdr *tar.Header, r io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeReg:
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.WriteFile(at, data, 0o600)
	case tar.TypeDir:
		return os.Mkdir(at, 0o700)
	case tar.TypeSymlink:
		return os.Symlink(hdr.Linkname, at)
	case tar.TypeFifo:
		if _, ok := hdr.PAXRecords[recordPrefix+recordSocket]; ok {
			return makeNode(at, tree.KindSocket, 0, 0)
		}
		return makeNode(at, tree.KindFifo, 0, 0)
	case tar.TypeChar:
		return makeNode(at, tree.KindChar, uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case tar.TypeBlock:
		return makeNode(at, tree.KindBlock, uint32(hdr.Devmajor), uint32(hdr.Devminor))
	}
	return errors.Errorf("type %q", hdr.Typeflag)
}

// dress sets owner, mode, attributes and time, in this order.
func dress(at string, hdr *tar.Header) error {
	if err := os.Lchown(at, hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeSymlink {
		mode := hdr.FileInfo().Mode()
		if err := os.Chmod(at, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
			return err
		}
	}
	for record, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(record, recordPrefix)
		if !ok || name == recordSocket {
			continue
		}
		if gone, ok := strings.CutPrefix(name, recordGone); ok {
			if err := sysx.LRemovexattr(at, gone); err != nil && !noAttribute(err) {
				return errors.Wrapf(err, "removing attribute %s", gone)
			}
			continue
		}
		if err := sysx.LSetxattr(at, name, []byte(value), 0); err != nil {
			return errors.Wrapf(err, "attribute %s", name)
		}
	}
	return setTime(at, hdr.ModTime)
}

// Merge writes base into dir, which must be empty, unpacks the changes of each pair of trees (lower, upper) over it, and returns the
// tree that comes out. A nil tree is empty.
func Merge(dir string, base tree.Tree, diffs [][2]tree.Tree) (tree.Tree, error) {
	if err := tree.Write(dir, base.Entries()...); err != nil {
		return nil, err
	}
	for _, d := range diffs {
		archive, err := Pack(Changes(d[0], d[1]))
		if err != nil {
			return nil, err
		}
		if err := Unpack(dir, archive); err != nil {
			return nil, err
		}
	}
	return tree.Read(dir)
}
