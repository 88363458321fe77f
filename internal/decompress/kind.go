package decompress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Kind is how a stream is compressed.
type Kind int

// The kinds. Whatever is neither gzip nor zstd counts as uncompressed, an empty stream too.
const (
	Uncompressed Kind = iota
	Gzip
	Zstd
)

// String is the name users know.
func (k Kind) String() string {
	switch k {
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	}
	return "uncompressed"
}

// maxWindow is how far back a zstd frame may refer, in bytes, and so what a decoder holds in memory at
// most. It is what `zstd -d` accepts without further options, and all that `zstd --ultra` uses.
const maxWindow = 128 << 20

// inputSize is how much of a gzip stream is read at once: enough for the reads to cost nothing beside the decoding.
const inputSize = 64 << 10

// headSize is how many bytes Detect looks at.
const headSize = 4

var (
	// The third byte is the one compression method that gzip has.
	gzipMagic = []byte{0x1f, 0x8b, 0x08}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// The first bytes of a zstd frame that decoders skip: sixteen numbers in a row, little endian.
const (
	skippableMagic = 0x184d2a50
	skippableMask  = 0xfffffff0
)

// Detect tells the kind of a stream that begins with head. Four bytes suffice.
func Detect(head []byte) Kind {
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return Gzip
	case bytes.HasPrefix(head, zstdMagic):
		return Zstd
	case len(head) >= headSize && binary.LittleEndian.Uint32(head)&skippableMask == skippableMagic:
		return Zstd
	}
	return Uncompressed
}

// Error reports a compressed stream that is damaged, cut off, followed by something else, or made to
// exhaust the memory. It is also errdefs' "invalid argument" and its cause.
type Error struct {
	// Kind is what the stream claims to be.
	Kind Kind
	// Err is what the decoder found.
	Err error
}

func (e *Error) Error() string { return e.Kind.String() + " stream: " + e.Err.Error() }

// Unwrap gives category and cause.
func (e *Error) Unwrap() []error { return []error{errdefs.ErrInvalidArgument, e.Err} }

// decoder is the decoding end of a stream. It must be closed.
type decoder struct {
	io.Reader
	close func()
}

// newDecoder reads the header of the first member or frame already. Decoders work in the calling
// goroutine only.
func newDecoder(kind Kind, src io.Reader) (*decoder, error) {
	switch kind {
	case Gzip:
		r, err := gzip.NewReader(bufio.NewReaderSize(src, inputSize)) // which would take one of 4 KiB else
		if err != nil {
			return nil, err
		}
		return &decoder{Reader: r, close: func() { _ = r.Close() }}, nil // reports what Read has reported
	case Zstd:
		r, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
		if err != nil {
			return nil, err
		}
		return &decoder{Reader: r, close: r.Close}, nil
	}
	return &decoder{Reader: src, close: func() {}}, nil
}
