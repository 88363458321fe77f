package decompress_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/internal/decompress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func zst(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, opts...)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// skippable is a zstd frame that holds no content.
func skippable(data string) []byte {
	return append([]byte{0x5a, 0x2a, 0x4d, 0x18, byte(len(data)), 0, 0, 0}, data...)
}

// sample is content of several buffers' size that does not compress to nothing.
func sample(t testing.TB, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	_, err := rand.Read(data[:n/2])
	require.NoError(t, err)
	return data
}

func readAll(ctx context.Context, src io.Reader) ([]byte, decompress.Kind, error) {
	r, err := decompress.New(ctx, src)
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(r)
	return data, r.Kind(), errors.Join(err, r.Close())
}

// Streams of every form give their content, however the source hands them out (spec EXT-6, REF-20).
func TestForms(t *testing.T) {
	data := sample(t, 3<<20+17)
	half := len(data) / 2
	for name, tc := range map[string]struct {
		blob []byte
		want []byte
		kind decompress.Kind
	}{
		"empty":                    {nil, nil, decompress.Uncompressed},
		"one byte":                 {[]byte{0x1f}, []byte{0x1f}, decompress.Uncompressed},
		"three bytes of zstd":      {[]byte{0x28, 0xb5, 0x2f}, []byte{0x28, 0xb5, 0x2f}, decompress.Uncompressed},
		"uncompressed":             {data, data, decompress.Uncompressed},
		"gzip":                     {gz(t, data), data, decompress.Gzip},
		"gzip of nothing":          {gz(t, nil), nil, decompress.Gzip},
		"gzip, several members":    {append(gz(t, data[:half]), gz(t, data[half:])...), data, decompress.Gzip},
		"zstd":                     {zst(t, data), data, decompress.Zstd},
		"zstd of nothing":          {zst(t, nil, zstd.WithZeroFrames(true)), nil, decompress.Zstd},
		"zstd, several frames":     {append(zst(t, data[:half]), zst(t, data[half:])...), data, decompress.Zstd},
		"zstd, skippable at first": {append(skippable("x"), zst(t, data)...), data, decompress.Zstd},
		"zstd, skippable at last":  {append(zst(t, data), skippable("table")...), data, decompress.Zstd},
		"zstd, skippable alone":    {skippable("nothing but this"), nil, decompress.Zstd},
	} {
		t.Run(name, func(t *testing.T) {
			for _, src := range []io.Reader{
				bytes.NewReader(tc.blob), iotest.HalfReader(bytes.NewReader(tc.blob)), iotest.DataErrReader(bytes.NewReader(tc.blob)),
			} {
				got, kind, err := readAll(t.Context(), src)
				require.NoError(t, err)
				require.Equal(t, tc.kind, kind)
				require.Truef(t, bytes.Equal(tc.want, got), "%d bytes instead of %d", len(got), len(tc.want))
			}
		})
	}
}

// TestDamage: whatever is wrong with a stream is an invalid argument and never its end (fault 43, scenario S-11).
func TestDamage(t *testing.T) {
	data := sample(t, 1<<20)
	flip := func(blob []byte, at int) []byte {
		blob = bytes.Clone(blob)
		blob[at] ^= 0x55
		return blob
	}
	g, z := gz(t, data), zst(t, data)
	// A frame with a window of 2 GiB, and one of a single segment that claims 1 TiB.
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00}
	segment := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 0x01, 0x00, 0x00}
	cases := map[string][]byte{
		"gzip, cut":              g[:len(g)/2],
		"gzip, checksum cut":     g[:len(g)-1],
		"gzip, header cut":       g[:5],
		"gzip, magic alone":      g[:3],
		"gzip, flipped":          flip(g, len(g)/2),
		"gzip, wrong checksum":   flip(g, len(g)-6),
		"gzip, garbage behind":   append(bytes.Clone(g), "garbage behind the end"...),
		"gzip, one byte behind":  append(bytes.Clone(g), 0),
		"gzip, zstd behind":      append(bytes.Clone(g), z...),
		"zstd, cut":              z[:len(z)/2],
		"zstd, checksum cut":     z[:len(z)-1],
		"zstd, magic alone":      z[:4],
		"zstd, flipped":          flip(z, len(z)/2),
		"zstd, garbage behind":   append(bytes.Clone(z), "garbage behind the end"...),
		"zstd, one byte behind":  append(bytes.Clone(z), 0),
		"zstd, skippable cut":    append(bytes.Clone(z), skippable("cut off")[:9]...),
		"zstd, huge window":      window,
		"zstd, huge segment":     segment,
		"zstd, unknown dict":     {0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x00, 0x42, 0x01, 0x00, 0x00},
		"zstd, skippable header": skippable("")[:6],
	}
	for name, blob := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := readAll(t.Context(), bytes.NewReader(blob))
			require.Error(t, err)
			require.Truef(t, errdefs.IsInvalidArgument(err), "%v", err)
			var damage *decompress.Error
			require.ErrorAs(t, err, &damage)
			require.NotErrorIs(t, err, io.EOF)
		})
	}
}

// TestSourceFails: an error of the source keeps its category (fault 26).
func TestSourceFails(t *testing.T) {
	data := sample(t, 1<<20)
	for name, blob := range map[string][]byte{"uncompressed": data, "gzip": gz(t, data), "zstd": zst(t, data)} {
		t.Run(name, func(t *testing.T) {
			for _, at := range []int{0, 2, 100, len(blob) / 2} {
				src := io.MultiReader(bytes.NewReader(blob[:at]), iotest.ErrReader(errdefs.ErrUnavailable))
				_, _, err := readAll(t.Context(), src)
				require.ErrorIs(t, err, errdefs.ErrUnavailable)
				require.False(t, errdefs.IsInvalidArgument(err), "%v", err)
			}
		})
	}
}

// TestEarlyClose: closing a Reader at any time ends its goroutine, releases what it holds and makes Reads fail (quirk Q43).
func TestEarlyClose(t *testing.T) {
	data := sample(t, 8<<20)
	for _, blob := range [][]byte{data, gz(t, data), zst(t, data)} {
		for _, n := range []int{0, 1, 2 << 20} {
			src := &watched{Reader: bytes.NewReader(blob)}
			r, err := decompress.New(t.Context(), src)
			require.NoError(t, err)
			_, err = io.ReadFull(r, make([]byte, n))
			require.NoError(t, err)
			require.NoError(t, r.Close())
			src.closed = true // the race detector sees a reading that goes on
			_, err = r.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.ErrClosedPipe)
			require.NoError(t, r.Close())
		}
	}
}

type watched struct {
	io.Reader
	closed bool
}

func (w *watched) Read(p []byte) (int, error) {
	if w.closed {
		return 0, errors.New("read after Close")
	}
	return w.Reader.Read(p)
}

// TestReadsAhead: content is decoded while nobody reads, and no more of it than fits in the buffers (design 5).
func TestReadsAhead(t *testing.T) {
	src := &counted{reads: make(chan int, 1<<10)}
	r, err := decompress.New(t.Context(), src)
	require.NoError(t, err)
	total := 0
	for total < 1<<20 { // the four buffers fill up without a Read
		total += <-src.reads
	}
	_, err = r.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	close(src.reads)
	for n := range src.reads {
		total += n
	}
	require.LessOrEqual(t, total, 1<<20+8, "more was read ahead than there are buffers for")
}

// counted is an endless source.
type counted struct{ reads chan int }

func (c *counted) Read(p []byte) (int, error) {
	p = p[:min(len(p), 32<<10)]
	c.reads <- len(p)
	return len(p), nil
}

// TestCancelled: the end of the context ends a Read that waits for a source which hangs, and Close then waits only for the
// source (fault 26).
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		_, err := pw.Write(make([]byte, 100))
		wrote <- err
	}()
	r, err := decompress.New(ctx, pr)
	require.NoError(t, err)
	require.NoError(t, <-wrote)
	cancel()
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, pw.Close()) // the source notices as well
	require.NoError(t, r.Close())

	_, err = decompress.New(ctx, bytes.NewReader(nil))
	require.ErrorIs(t, err, context.Canceled)
}

// FuzzNew: no stream panics or hangs, an error is typed, and a sound one gives the same twice (fault 43).
func FuzzNew(f *testing.F) {
	data := []byte("some content, some content, some content")
	for _, seed := range [][]byte{
		nil, data, gz(f, data), zst(f, data), gz(f, data)[:9], zst(f, data)[:9], append(gz(f, data), gz(f, data)...),
		append(skippable("x"), zst(f, data)...),
		{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		read := func() ([]byte, error) {
			r, err := decompress.New(t.Context(), bytes.NewReader(blob))
			if err != nil {
				return nil, err
			}
			defer func() { require.NoError(t, r.Close()) }()
			return io.ReadAll(io.LimitReader(r, 8<<20))
		}
		got, err := read()
		if err != nil {
			require.Truef(t, errdefs.IsInvalidArgument(err), "%v", err)
			return
		}
		if decompress.Detect(blob) == decompress.Uncompressed {
			require.True(t, bytes.Equal(blob, got))
		}
		again, err := read()
		require.NoError(t, err)
		require.True(t, bytes.Equal(got, again))
	})
}
