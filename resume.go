package cache

import (
	"context"
	"io"
	"io/fs"
	"net"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// resuming is a provider of which blobs can be read from anywhere on, so that a transfer can go on that broke off, maybe in a process that
// is dead by now. Those of a client's OCI layout, for one, come to BuildKit as streams that begin at the beginning: what is there
// already is read once more then, and thrown away. Without it the blob could not be had until its remains are collected.
type resuming struct{ content.Provider }

func (p resuming) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := p.Provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	open := func() (content.ReaderAt, error) { return p.Provider.ReaderAt(ctx, desc) }
	return &resumed{ctx: ctx, ra: ra, open: open, size: ra.Size()}, nil
}

// resumed is a reader that, if the first read fails and is not one of the beginning, is opened again and read from there.
type resumed struct {
	ctx  context.Context //nolint:containedctx // ReadAt has none, and the provider's lasts as long as the reader
	open func() (content.ReaderAt, error)
	size int64

	// first is held by one read at a time until something was read.
	first sync.Mutex
	mu    sync.Mutex // not held while reading, since Close may be what ends a read
	// ra is the reader in use, and begun tells that something was read, so that an error is one of the transfer.
	ra            content.ReaderAt
	begun, closed bool
}

func (r *resumed) Size() int64 { return r.size }

func (r *resumed) ReadAt(p []byte, off int64) (int, error) {
	ra, begun := r.reader()
	if begun {
		return ra.ReadAt(p, off)
	}
	r.first.Lock()
	defer r.first.Unlock()
	ra, begun = r.reader()
	n, err := ra.ReadAt(p, off)
	if !begun && n == 0 && off > 0 && cannotSeek(err) {
		if ra, err = r.skip(off); err != nil {
			return 0, err
		}
		n, err = ra.ReadAt(p, off)
	}
	if n > 0 {
		r.mu.Lock()
		r.begun = true
		r.mu.Unlock()
	}
	return n, err
}

func (r *resumed) reader() (ra content.ReaderAt, begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ra, r.begun
}

// cannotSeek tells whether an error may be that of a reader that has to begin at the beginning. It has no type, so everything
// counts that is none of a transfer's.
func cannotSeek(err error) bool {
	var network net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network):
		return false
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errdefs.IsNotImplemented(err):
		return true
	}
	return errors.Is(errdefs.Resolve(err), errdefs.ErrUnknown)
}

// skip opens the blob anew, and reads what is before an offset.
func (r *resumed) skip(off int64) (content.ReaderAt, error) {
	fresh, err := r.open()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	old := fresh
	if !r.closed {
		old, r.ra = r.ra, fresh
	}
	r.mu.Unlock()
	_ = old.Close() // nobody has read from it
	if old == fresh {
		return nil, errors.Wrap(fs.ErrClosed, "the reader of a blob")
	}
	return fresh, copyRest(r.ctx, io.Discard, fresh, 0, off)
}

func (r *resumed) Close() error {
	r.mu.Lock()
	ra := r.ra
	r.closed = true
	r.mu.Unlock()
	return ra.Close()
}
