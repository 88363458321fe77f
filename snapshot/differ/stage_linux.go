package differ

import (
	"context"
	"io"
	"sync"

	"github.com/pkg/errors"
)

// A stage has stageBuffers buffers of stageBuffer bytes: large enough for few system calls and hand-overs, and enough of them that neither
// side waits for the other one's every file.
const (
	stageBuffer  = 256 << 10
	stageBuffers = 4
)

var stagePool = sync.Pool{New: func() any { return new([stageBuffer]byte) }}

// stage is a writer whose content another goroutine writes on.
type stage struct {
	ctx  context.Context //nolint:containedctx // a stage is part of one call
	buf  *[stageBuffer]byte
	n    int
	free chan *[stageBuffer]byte
	full chan filled
	// failed is closed when the destination has returned err.
	failed chan struct{}
	err    error
}

type filled struct {
	buf *[stageBuffer]byte
	n   int
}

// through calls write with a writer behind which another goroutine writes to dest, so that the two work at the same time. When it
// returns that goroutine is gone. An error of dest counts first: write can only have it from there.
func through(ctx context.Context, dest io.Writer, write func(io.Writer) error) error {
	s := &stage{
		ctx: ctx, failed: make(chan struct{}),
		free: make(chan *[stageBuffer]byte, stageBuffers), full: make(chan filled, stageBuffers),
	}
	for range stageBuffers {
		s.free <- nil // made when it is needed
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.drain(dest)
	}()
	err := write(s)
	if err == nil {
		err = s.flush()
	}
	close(s.full)
	<-done
	s.release()
	if s.err != nil {
		return errors.Wrap(s.err, "writing the blob")
	}
	return err
}

// drain writes what comes to dest, until the end or an error; after that it discards.
func (s *stage) drain(dest io.Writer) {
	for f := range s.full {
		if s.err == nil {
			if _, err := dest.Write(f.buf[:f.n]); err != nil {
				s.err = err
				close(s.failed)
			}
		}
		s.free <- f.buf // there is room: no more exist
	}
}

func (s *stage) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		if s.buf == nil {
			if err := s.take(); err != nil {
				return total, err
			}
		}
		n := copy(s.buf[s.n:], p)
		s.n += n
		total += n
		p = p[n:]
		if s.n == stageBuffer {
			if err := s.flush(); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

// take waits for a buffer.
func (s *stage) take() error {
	select {
	case s.buf = <-s.free:
		if s.buf == nil {
			s.buf, _ = stagePool.Get().(*[stageBuffer]byte)
		}
		return nil
	case <-s.failed:
		return s.err
	case <-s.ctx.Done():
		return errors.WithStack(context.Cause(s.ctx))
	}
}

// flush hands what has been written over.
func (s *stage) flush() error {
	select {
	case <-s.failed:
		return s.err
	default:
	}
	if s.n > 0 {
		s.full <- filled{s.buf, s.n} // there is room: no more exist
		s.buf, s.n = nil, 0
	}
	return nil
}

// release gives the buffers back.
func (s *stage) release() {
	if s.buf != nil {
		stagePool.Put(s.buf)
	}
	close(s.free)
	for buf := range s.free {
		if buf != nil {
			stagePool.Put(buf)
		}
	}
}
