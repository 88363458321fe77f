package decompress

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/pkg/errors"
)

// What is decoded ahead of the reader: enough to ride out a slow write, little beside a decoder's window.
const (
	bufferCount = 4
	bufferSize  = 256 << 10
)

// Reader is the content of a stream. Read and Close are for one goroutine at a time.
type Reader struct {
	kind Kind
	ctx  context.Context //nolint:containedctx // of New: a Read that waits for the decoder has to end with it

	full chan chunk  // closed after the last chunk
	free chan []byte // buffers to be filled anew
	quit chan struct{}
	done chan struct{} // closed when the goroutine has ended
	once sync.Once

	current chunk
	rest    []byte // of current
	err     error  // what every Read returns from now on
}

// chunk is a piece of content, and what came after it if that is the end.
type chunk struct {
	data []byte
	err  error
}

// New reads the beginning of src and returns a Reader of what src holds. From then on a goroutine reads src ahead of
// the caller, who has to Close the Reader and may close src only then.
//
// A damaged stream is an *Error, here or from Read, and so is anything behind the end of its last member or frame. Errors of src
// keep their category. When ctx ends, so does reading.
func New(ctx context.Context, src io.Reader) (*Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, errors.WithStack(err)
	}
	in := &input{src: src}
	head := make([]byte, headSize)
	n, err := io.ReadFull(in, head)
	if in.err != nil {
		return nil, errors.Wrap(in.err, "reading the compressed stream")
	}
	head = head[:n]
	kind := Detect(head)
	in.head = bytes.NewReader(head)
	in.ended = err != nil // EOF: nothing comes after the head
	dec, err := newDecoder(kind, in)
	if err != nil {
		return nil, in.blame(kind, err)
	}
	r := &Reader{
		kind: kind,
		ctx:  ctx,
		full: make(chan chunk, bufferCount),
		free: make(chan []byte, bufferCount),
		quit: make(chan struct{}),
		done: make(chan struct{}),
	}
	for range bufferCount {
		r.free <- nil // allocated when needed: most layers are small
	}
	go r.decode(in, dec)
	return r, nil
}

// Kind tells how the stream is compressed.
func (r *Reader) Kind() Kind { return r.kind }

// decode fills buffers until the stream ends, or nobody wants them.
func (r *Reader) decode(in *input, dec *decoder) {
	defer close(r.done)
	defer close(r.full)
	defer dec.close()
	for {
		var buf []byte
		select {
		case buf = <-r.free:
		case <-r.quit:
			return
		case <-r.ctx.Done():
			return
		}
		if buf == nil {
			buf = make([]byte, bufferSize)
		}
		n, err := r.fill(dec, buf)
		if err != nil && err != io.EOF { //nolint:errorlint // decoders return it bare
			err = in.blame(r.kind, err)
		}
		// There is room: no more chunks exist than buffers.
		r.full <- chunk{data: buf[:n], err: err}
		if err != nil {
			return
		}
	}
}

// fill reads until buf is full. An error that comes with the last bytes is returned with them.
func (r *Reader) fill(dec io.Reader, buf []byte) (n int, err error) {
	for empty := 0; n < len(buf) && err == nil; {
		if r.ctx.Err() != nil {
			return n, errors.WithStack(r.ctx.Err())
		}
		var m int
		m, err = dec.Read(buf[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; empty > 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, err
}

// Read returns content, and io.EOF only when the stream is complete and sound.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.next()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next gives the used buffer back and waits for another one.
func (r *Reader) next() {
	if r.current.err != nil {
		r.err = r.current.err
		return
	}
	if buf := r.current.data; buf != nil {
		r.current = chunk{}
		r.free <- buf[:cap(buf)]
	}
	select {
	case <-r.quit:
		r.err = errors.WithStack(io.ErrClosedPipe)
		return
	default:
	}
	select {
	case c, ok := <-r.full:
		if !ok { // the goroutine gave up
			r.err = errors.WithStack(r.ctx.Err())
			return
		}
		r.current, r.rest = c, c.data
	case <-r.ctx.Done():
		r.err = errors.WithStack(r.ctx.Err())
	}
}

// Close stops decoding and waits until nothing reads from the source any more: a source that hangs has to be
// told by the context it was opened with. Reads fail from then on. Closing again does nothing.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.quit)
		<-r.done
		r.current, r.rest = chunk{}, nil
		r.err = errors.WithStack(io.ErrClosedPipe)
	})
	return nil
}

// input is the source with its first bytes put back. It remembers the source's own error, so that this is not taken for
// damage of the stream.
type input struct {
	head  *bytes.Reader // nil while the head is being read
	src   io.Reader
	ended bool
	err   error // other than io.EOF
}

func (in *input) Read(p []byte) (int, error) {
	if in.head != nil && in.head.Len() > 0 {
		return in.head.Read(p)
	}
	if in.ended {
		return 0, io.EOF
	}
	n, err := in.src.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
	}
	return n, err
}

// blame tells whose an error is: the source's if it had one, else the stream's.
func (in *input) blame(kind Kind, err error) error {
	switch {
	case in.err != nil:
		return errors.Wrap(in.err, "reading the compressed stream")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case err == io.EOF: //nolint:errorlint // bare, of a decoder whose header is cut off
		err = io.ErrUnexpectedEOF
	}
	return &Error{Kind: kind, Err: err}
}
