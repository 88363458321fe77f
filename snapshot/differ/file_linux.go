package differ

import (
	"archive/tar"
	"context"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

// file writes the entry of a regular file and its content.
func (a *archiver) file(i *treediff.Item, hdr *tar.Header) error {
	fd, err := i.Open()
	if err != nil {
		return err
	}
	capability, err := i.Capability()
	if err != nil {
		return err
	}
	setCapability(hdr, capability)
	if err := a.header(hdr); err != nil {
		return err
	}
	return a.content(fd, hdr.Size)
}

// content writes size bytes of the open file. One that has more or less by now is an error: the archive says already how many there are.
func (a *archiver) content(fd int, size int64) error {
	for left := size; left > 0; {
		if a.ctx.Err() != nil {
			return errors.WithStack(context.Cause(a.ctx))
		}
		part := a.buf[:readBuffer]
		if left <= readBuffer {
			part = a.buf[:left+1] // one byte more than there should be shows a file that has grown
		}
		n, err := read(fd, part)
		switch {
		case err != nil:
			return errors.Wrap(err, "reading")
		case n == 0:
			return changed("%d of its %d bytes are missing", left, size)
		case int64(n) > left:
			return changed("it has grown over its %d bytes", size)
		}
		if _, err := a.tw.Write(a.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// changed reports a file that is being written to.
func changed(format string, args ...any) error {
	return errors.Wrapf(errdefs.ErrAborted, "the file changed while it was being packed: "+format, args...)
}
