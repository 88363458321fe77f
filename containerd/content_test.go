package containerd

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/stretchr/testify/require"
)

// countedReader counts what is asked of it.
type countedReader struct {
	*bytes.Reader
	calls int
	err   error
}

func (r *countedReader) ReadAt(p []byte, off int64) (int, error) {
	r.calls++
	if r.err != nil {
		return 0, r.err
	}
	return r.Reader.ReadAt(p, off)
}

func (r *countedReader) Close() error { return nil }

func ahead(data []byte) (*countedReader, content.ReaderAt) {
	r := &countedReader{Reader: bytes.NewReader(data)}
	return r, &aheadReader{ReaderAt: r}
}

// TestReadAhead: whatever pieces a blob is read in, the bytes are the blob's and io.ReaderAt's contract holds; reading from front to back
// costs a call per MiB (issue 10: round trips).
func TestReadAhead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, readAhead - 1, readAhead, readAhead + 1, 3*readAhead + 17} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		_, ra := ahead(data)
		require.NoError(t, iotest.TestReader(io.NewSectionReader(ra, 0, int64(size)), data))
		r, ra := ahead(data)
		got, err := io.ReadAll(io.NewSectionReader(ra, 0, int64(size)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		require.LessOrEqual(t, r.calls, size/readAhead+1)
		for range 100 {
			off, n := rng.Int64N(int64(size)+2), rng.IntN(2*readAhead)
			p := make([]byte, n)
			got, err := ra.ReadAt(p, off)
			want, werr := bytes.NewReader(data).ReadAt(make([]byte, n), off)
			require.Equal(t, want, got)
			if n > 0 {
				require.Equal(t, werr, err)
			}
			if got > 0 {
				require.True(t, bytes.Equal(data[off:off+int64(got)], p[:got]))
			}
		}
	}
}

// TestReadAheadFails: an error is told and forgotten, and a blob that is shorter than it says is an unexpected end.
func TestReadAheadFails(t *testing.T) {
	r, ra := ahead([]byte("content"))
	r.err = io.ErrClosedPipe
	_, err := ra.ReadAt(make([]byte, 3), 0)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	r.err = nil
	p := make([]byte, 3)
	_, err = ra.ReadAt(p, 4)
	require.NoError(t, err)
	require.Equal(t, "ent", string(p))
	r.err = io.EOF
	_, err = (&aheadReader{ReaderAt: r}).ReadAt(p, 0)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = ra.ReadAt(p, -1)
	require.Error(t, err)
}
