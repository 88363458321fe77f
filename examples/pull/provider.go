package main

import (
	"context"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// provider hands a source's blobs to the cache, and tells the meter how far each is read.
type provider struct {
	src   source
	meter *meter
}

// ReaderAt implements content.Provider.
func (p provider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	rc, err := p.src.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	p.meter.opened(desc.Digest)
	return &blob{rc: rc, digest: desc.Digest, size: desc.Size, meter: p.meter, ended: ctx.Err}, nil
}

// blob is a stream that is read as if it were a file. The cache reads forward, so the stream is
// seldom asked to go to another place.
type blob struct {
	digest digest.Digest
	size   int64
	meter  *meter
	ended  func() error

	mu     sync.Mutex
	rc     io.ReadCloser
	pos    int64
	closed bool
}

// Size implements content.ReaderAt. It is what the manifest says.
func (b *blob) Size() int64 { return b.size }

// ReadAt implements io.ReaderAt. A stream that ends before its size is io.ErrUnexpectedEOF.
func (b *blob) ReadAt(p []byte, off int64) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, errors.Wrapf(errdefs.ErrFailedPrecondition, "read %s after it was closed", b.digest)
	case off < 0:
		return 0, errors.Wrapf(errdefs.ErrInvalidArgument, "read %s at %d", b.digest, off)
	case off >= b.size:
		return 0, io.EOF
	}
	if err := b.ended(); err != nil {
		return 0, errors.WithStack(err) // a local file would be read to its end
	}
	if err := b.moveTo(off); err != nil {
		return 0, err
	}
	rest := b.size - off
	n, err = io.ReadFull(b.rc, p[:min(int64(len(p)), rest)])
	b.pos += int64(n)
	b.meter.arrived(b.digest, b.pos)
	switch {
	case err == nil && n < len(p):
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, errors.Wrapf(io.ErrUnexpectedEOF, "%s ends after %d of %d bytes", b.digest, b.pos, b.size)
	}
	return n, errors.Wrapf(err, "read %s at %d", b.digest, off)
}

func (b *blob) moveTo(off int64) error {
	if off == b.pos {
		return nil
	}
	seeker, ok := b.rc.(io.Seeker)
	if !ok {
		return errors.Wrapf(errdefs.ErrNotImplemented, "read %s at %d: the stream is at %d and cannot move", b.digest, off, b.pos)
	}
	if _, err := seeker.Seek(off, io.SeekStart); err != nil {
		return errors.Wrapf(err, "read %s at %d", b.digest, off)
	}
	b.pos = off
	return nil
}

// Close implements io.Closer.
func (b *blob) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.meter.closed(b.digest)
	return b.rc.Close()
}
