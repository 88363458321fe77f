package tree

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Tar packs entries, in their order, into an uncompressed layer archive. Parents that are not declared
// are not in it. What has no declared owner belongs to the process's user. Times that are not declared are the Unix epoch, so that equal declarations
// give equal bytes.
func Tar(entries ...Entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	seen := map[string]Entry{}
	for _, e := range entries {
		if first, ok := seen[e.Target]; ok && e.Kind == KindHardlink {
			// Whoever unpacks it sets mode, owner and time once more, for all the names.
			e.Mode, e.UID, e.GID, e.ModTime, e.Xattrs = first.Mode, first.UID, first.GID, first.ModTime, first.Xattrs
			e.owned = first.owned
		} else if e.Kind == KindHardlink && e.Mode == 0 { // to a file of a layer below
			e.Mode = 0o644
		}
		seen[e.Path] = e
		hdr, err := e.header()
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(hdr); err != nil {
			return nil, errors.Wrapf(err, "%s %q", e.Kind, e.Path)
		}
		if e.Kind == KindFile {
			if _, err := w.Write([]byte(e.Data)); err != nil {
				return nil, errors.Wrapf(err, "%s %q", e.Kind, e.Path)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, errors.WithStack(err)
	}
	return buf.Bytes(), nil
}

func (e Entry) header() (*tar.Header, error) {
	hdr := &tar.Header{
		Name: e.Path, Linkname: e.Target, Uid: e.UID, Gid: e.GID, ModTime: e.ModTime, Format: tar.FormatPAX,
		Mode: int64(e.Mode.Perm()), Devmajor: int64(e.Major), Devminor: int64(e.Minor),
	}
	if !e.owned && e.UID == 0 && e.GID == 0 { // or nobody but root could unpack it
		hdr.Uid, hdr.Gid = max(os.Getuid(), 0), max(os.Getgid(), 0)
	}
	if hdr.ModTime.IsZero() {
		hdr.ModTime = time.Unix(0, 0)
	}
	for bit, flag := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if e.Mode&bit != 0 {
			hdr.Mode |= flag
		}
	}
	for name, value := range e.Xattrs {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords["SCHILY.xattr."+name] = value
	}
	types := map[Kind]byte{
		KindFile: tar.TypeReg, KindDir: tar.TypeDir, KindSymlink: tar.TypeSymlink, KindHardlink: tar.TypeLink,
		KindFifo: tar.TypeFifo, KindChar: tar.TypeChar, KindBlock: tar.TypeBlock, kindWhiteout: tar.TypeReg, kindOpaque: tar.TypeReg,
	}
	var ok bool
	if hdr.Typeflag, ok = types[e.Kind]; !ok {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "an archive cannot hold a %s", e.Kind)
	}
	switch e.Kind {
	case KindFile:
		hdr.Size = int64(len(e.Data))
	case KindDir:
		hdr.Name += "/"
	case KindSymlink:
		hdr.Mode = 0o777
	case kindWhiteout:
		hdr.Name = path.Join(path.Dir(e.Path), ".wh."+path.Base(e.Path))
	case kindOpaque:
		hdr.Name = path.Join(e.Path, ".wh..wh..opq")
	}
	return hdr, nil
}
