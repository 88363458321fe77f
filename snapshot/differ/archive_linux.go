package differ

import (
	"archive/tar"
	"context"
	"io"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

const (
	whiteoutPrefix = ".wh."
	// paxCapability is the record of an archive that holds "security.capability".
	paxCapability = "SCHILY.xattr.security.capability"
	// readBuffer is how much of a file is read at once.
	readBuffer = 256 << 10
)

// archiver writes an archive.
type archiver struct {
	ctx    context.Context //nolint:containedctx // an archive is one call
	tw     *tar.Writer
	latest *time.Time
	layout *Layout
	buf    []byte
}

// archive writes what upper has beside lower to w.
func (d *Differ) archive(ctx context.Context, w io.Writer, latest *time.Time, lower, upper treediff.Layers) error {
	a := &archiver{ctx: ctx, tw: tar.NewWriter(w), latest: latest, layout: &d.layout, buf: make([]byte, readBuffer+1)}
	for _, hdr := range d.layout.First {
		if err := a.tw.WriteHeader(&hdr); err != nil {
			return errors.Wrapf(err, "writing entry %q", hdr.Name)
		}
	}
	if err := treediff.Walk(ctx, lower, upper, a.item); err != nil {
		return err
	}
	return errors.Wrap(a.tw.Close(), "ending the archive")
}

// item writes an entry.
func (a *archiver) item(i treediff.Item) error {
	if i.Kind == treediff.Delete {
		dir, base := path.Split(i.Path)
		// Without a format, as containerd has it: most are of the shortest.
		return a.header(&tar.Header{Typeflag: tar.TypeReg, Name: dir + whiteoutPrefix + base, ModTime: time.Unix(0, 0)})
	}
	hdr, err := a.describe(&i)
	if err != nil {
		return errors.WithMessagef(err, "file %q", i.Name)
	}
	if hdr.Typeflag == tar.TypeReg && hdr.Size > 0 {
		return errors.WithMessagef(a.file(&i, hdr), "file %q", i.Name)
	}
	capability, err := i.Capability()
	if err != nil {
		return errors.WithMessagef(err, "file %q", i.Name)
	}
	setCapability(hdr, capability)
	return a.header(hdr)
}

func (a *archiver) header(hdr *tar.Header) error {
	if a.layout.Entry != nil {
		a.layout.Entry(hdr)
	}
	return errors.Wrapf(a.tw.WriteHeader(hdr), "writing entry %q", hdr.Name)
}

// describe makes the entry of a file, but for its capability.
func (a *archiver) describe(i *treediff.Item) (*tar.Header, error) {
	st, err := i.Stat()
	if err != nil {
		return nil, err
	}
	mtime := time.Unix(st.Mtim.Unix())
	if a.latest != nil && mtime.After(*a.latest) {
		mtime = *a.latest
	}
	hdr := &tar.Header{
		Format:  tar.FormatPAX, // another one rounds times
		Name:    i.Path,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     int(st.Uid),
		Gid:     int(st.Gid),
		ModTime: mtime.Truncate(time.Second),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, i.Path+"/"
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		if i.Link == "" {
			if hdr.Linkname, err = treediff.Readlink(i.At()); err != nil {
				return nil, err
			}
		}
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		hdr.Typeflag = tar.TypeChar
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		hdr.Typeflag = tar.TypeBlock
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, errors.Wrapf(errdefs.ErrNotImplemented, "a file of the unknown mode %o", st.Mode)
	}
	if i.Link != "" {
		hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, i.Link, 0
	}
	return hdr, nil
}

func setCapability(hdr *tar.Header, capability []byte) {
	if len(capability) > 0 {
		hdr.PAXRecords = map[string]string{paxCapability: string(capability)}
	}
}
