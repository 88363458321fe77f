package containerd

import (
	"context"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// readAhead is how much of a blob is fetched at a time. The daemon sends a call's answer in pieces of at most 1 MiB.
const readAhead = 1 << 20

// contentStore is the daemon's content store, of whose blobs larger pieces are fetched than are asked for.
type contentStore struct{ content.Store }

func (s *contentStore) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := s.Store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	return &aheadReader{ReaderAt: ra}, nil
}

// Walk calls fn for every blob that one of the filters matches. With it the call ends, be it that fn does not want to see all.
func (s *contentStore) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.Store.Walk(ctx, fn, filters...)
}

// aheadReader remembers the last piece that was fetched, since blobs are read from front to back, in small steps.
type aheadReader struct {
	content.ReaderAt
	mu sync.Mutex
	// piece are the bytes from start on. It ends where the blob ends, or after readAhead bytes.
	piece []byte
	start int64
}

func (r *aheadReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, invalid("negative offset %d", off)
	}
	size := r.Size()
	for n < len(p) {
		at := off + int64(n)
		if at >= size {
			return n, io.EOF
		}
		if len(p)-n >= readAhead {
			m, err := r.fetch(p[n:], at)
			if n += m; err != nil {
				return n, err
			}
			continue
		}
		m, err := r.fromPiece(p[n:], at)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// fetch reads what there is from at on, up to len(p).
func (r *aheadReader) fetch(p []byte, at int64) (int, error) {
	if rest := r.Size() - at; int64(len(p)) > rest {
		p = p[:rest]
	}
	n, err := r.ReaderAt.ReadAt(p, at)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (r *aheadReader) fromPiece(p []byte, at int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at < r.start || at >= r.start+int64(len(r.piece)) {
		piece := make([]byte, min(readAhead, r.Size()-at))
		n, err := r.fetch(piece, at)
		if err != nil {
			return 0, err
		}
		r.piece, r.start = piece[:n], at
	}
	return copy(p, r.piece[at-r.start:]), nil
}
