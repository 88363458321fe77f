package differ_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/internal/decompress"
	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/testutil/tree"
)

// sample is a tree of several buffers' size.
func sample(t testing.TB) string {
	return write(t, tree.File("a", "x", tree.Time(whole)), tree.File("large", strings.Repeat("0123456789", 300_000), tree.Time(whole)), tree.Symlink("s", "a"))
}

func unpacked(t testing.TB, cs content.Store, desc ocispecs.Descriptor) []byte {
	t.Helper()
	r, err := decompress.New(t.Context(), bytes.NewReader(readBlob(t, cs, desc)))
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

func info(t testing.TB, cs content.Store, dgst digest.Digest) content.Info {
	t.Helper()
	i, err := cs.Info(t.Context(), dgst)
	require.NoError(t, err)
	return i
}

// Whatever form a blob has, its content is the archive and its label the archive's digest; two exports are equal (spec BLOB-7,
// BLOB-8, COMP-4).
func TestForms(t *testing.T) {
	dir := sample(t)
	want := containerd(t, "", dir)
	zstd, _ := codec.Zstd.Compress(t.Context(), compression.Config{}.SetLevel(1))
	estargz, _ := codec.EStargz.Compress(t.Context(), compression.Config{})
	plain, _ := codec.Uncompressed.Compress(t.Context(), compression.Config{})
	for name, test := range map[string]struct {
		opts      []diff.Opt
		mediaType string
		kind      decompress.Kind
	}{
		"default":               {nil, ocispecs.MediaTypeImageLayerGzip, decompress.Gzip},
		"uncompressed":          {[]diff.Opt{diff.WithMediaType(ocispecs.MediaTypeImageLayer)}, ocispecs.MediaTypeImageLayer, decompress.Uncompressed},
		"gzip":                  {[]diff.Opt{diff.WithMediaType(ocispecs.MediaTypeImageLayerGzip)}, ocispecs.MediaTypeImageLayerGzip, decompress.Gzip},
		"zstd":                  {[]diff.Opt{diff.WithMediaType(ocispecs.MediaTypeImageLayerZstd)}, ocispecs.MediaTypeImageLayerZstd, decompress.Zstd},
		"compressor":            {[]diff.Opt{diff.WithMediaType("any/thing"), diff.WithCompressor(zstd)}, "any/thing", decompress.Zstd},
		"transparent":           {[]diff.Opt{diff.WithMediaType(ocispecs.MediaTypeImageLayer), diff.WithCompressor(plain)}, ocispecs.MediaTypeImageLayer, decompress.Uncompressed},
		"estargz":               {[]diff.Opt{diff.WithMediaType(ocispecs.MediaTypeImageLayerGzip), diff.WithCompressor(estargz)}, ocispecs.MediaTypeImageLayerGzip, decompress.Gzip},
		"with a name and label": {[]diff.Opt{diff.WithReference("ref"), diff.WithLabels(map[string]string{"a": "b"})}, ocispecs.MediaTypeImageLayerGzip, decompress.Gzip},
	} {
		t.Run(name, func(t *testing.T) {
			cs := newStore(t)
			desc, err := differ.New(cs).Compare(t.Context(), nil, bind(dir), test.opts...)
			require.NoError(t, err)
			require.Equal(t, test.mediaType, desc.MediaType)
			blob := readBlob(t, cs, desc)
			require.Equal(t, digest.FromBytes(blob), desc.Digest)
			require.Equal(t, int64(len(blob)), desc.Size)
			require.Equal(t, test.kind, decompress.Detect(blob))
			if name == "estargz" {
				r, err := codec.EStargz.Decompress(t.Context(), cs, desc)
				require.NoError(t, err)
				data, err := io.ReadAll(r)
				require.NoError(t, err)
				require.NoError(t, r.Close())
				require.True(t, bytes.Equal(want, data))
			} else {
				requireArchive(t, want, unpacked(t, cs, desc))
			}
			labels := info(t, cs, desc.Digest).Labels
			require.Equal(t, digest.FromBytes(want).String(), labels[labelUncompressed])
			if strings.HasSuffix(name, "label") {
				require.Equal(t, "b", labels["a"])
			}
			noUploads(t, cs)

			again, err := differ.New(newStore(t)).Compare(t.Context(), nil, bind(dir), test.opts...)
			require.NoError(t, err)
			require.Equal(t, desc, again)
		})
	}
}

// A blob that is there already is the result, and gets the label if it lacks it (spec BLOB-7).
func TestBlobIsThere(t *testing.T) {
	dir, cs := sample(t), newStore(t)
	desc, err := differ.New(cs).Compare(t.Context(), nil, bind(dir))
	require.NoError(t, err)
	for _, opts := range [][]diff.Opt{nil, {diff.WithReference("x")}} {
		bare := info(t, cs, desc.Digest)
		label := bare.Labels[labelUncompressed]
		bare.Labels = map[string]string{labelUncompressed: ""}
		_, err = cs.Update(t.Context(), bare, "labels."+labelUncompressed)
		require.NoError(t, err)
		require.Empty(t, info(t, cs, desc.Digest).Labels[labelUncompressed])
		again, err := differ.New(cs).Compare(t.Context(), nil, bind(dir), opts...)
		require.NoError(t, err)
		require.Equal(t, desc, again)
		require.Equal(t, label, info(t, cs, desc.Digest).Labels[labelUncompressed])
		noUploads(t, cs)
	}
}

// What a caller cannot mean is an invalid argument, and nothing is begun.
func TestWrongOptions(t *testing.T) {
	dir, cs := sample(t), newStore(t)
	compressor, _ := codec.Gzip.Compress(t.Context(), compression.Config{})
	failing := func(*diff.Config) error { return errdefs.ErrOutOfRange }
	for name, test := range map[string]struct {
		opt  diff.Opt
		want error
	}{
		"media type":           {diff.WithMediaType("application/json"), errdefs.ErrInvalidArgument},
		"compressor of what":   {diff.WithCompressor(compressor), errdefs.ErrInvalidArgument},
		"an option that fails": {failing, errdefs.ErrOutOfRange},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []compare{differ.New(cs).Compare, differ.New(cs).CompareUpper} {
				desc, err := c(t.Context(), nil, bind(dir), test.opt)
				require.ErrorIs(t, err, test.want)
				require.Empty(t, desc)
				noUploads(t, cs)
			}
		})
	}
}

// The caller's labels are not touched, and an epoch may come with the context.
func TestCallersValues(t *testing.T) {
	dir, labels := sample(t), map[string]string{"a": "b"}
	_, err := differ.New(newStore(t)).Compare(t.Context(), nil, bind(dir), diff.WithLabels(labels))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b"}, labels)

	early := whole.Add(-time.Hour)
	cs := newStore(t)
	desc, err := differ.New(cs).Compare(epoch.WithSourceDateEpoch(t.Context(), &early), nil, bind(dir))
	require.NoError(t, err)
	require.Equal(t, plainArchive(t, compareAny, nil, bind(dir), diff.WithSourceDateEpoch(&early)), unpacked(t, cs, desc))
	require.NotEqual(t, plainArchive(t, compareAny, nil, bind(dir)), unpacked(t, cs, desc))
}

// hooked is a content store whose writers do something else.
type hooked struct {
	content.Store
	wrap   func(content.Writer) content.Writer
	aborts int
}

func (h *hooked) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := h.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return h.wrap(w), nil
}

func (h *hooked) Abort(ctx context.Context, ref string) error {
	h.aborts++
	return h.Store.Abort(ctx, ref)
}

// writer fails at one of its methods, and counts how often it was closed.
type writer struct {
	content.Writer
	fail    string
	written *int
	closed  *int
}

var errDisk = errors.New("no space left")

func (w *writer) Write(p []byte) (int, error) {
	*w.written += len(p)
	if w.fail == "write" && *w.written > 200_000 {
		return 0, errDisk
	}
	return w.Writer.Write(p)
}

func (w *writer) Truncate(n int64) error {
	if w.fail == "truncate" {
		return errDisk
	}
	return w.Writer.Truncate(n)
}

func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	*w.closed++
	if w.fail == "commit" {
		_ = w.Writer.Close()
		return errDisk
	}
	return w.Writer.Commit(ctx, size, expected, opts...)
}

func (w *writer) Close() error {
	*w.closed++
	return w.Writer.Close()
}

// brokenCompressor fails when it is made, written to or closed.
func brokenCompressor(at string) diff.Opt {
	return func(c *diff.Config) error {
		c.MediaType = ocispecs.MediaTypeImageLayerGzip
		c.Compressor = func(dest io.Writer, _ string) (io.WriteCloser, error) {
			if at == "start" {
				return nil, errDisk
			}
			return &brokenWriter{dest, at}, nil
		}
		return nil
	}
}

type brokenWriter struct {
	io.Writer
	at string
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.at == "write" {
		return 0, errDisk
	}
	return w.Writer.Write(p)
}

func (w *brokenWriter) Close() error {
	if w.at == "close" {
		return errDisk
	}
	return nil
}

// Whatever fails: the error is told, the writer is closed once, a random reference is aborted and a stable one is not, and the next call with
// it succeeds (spec BLOB-6; faults 11, 13, 21).
func TestFailures(t *testing.T) {
	dir := write(t, tree.File("noise", noise(1<<20)), tree.File("z", "z"))
	none := func(*diff.Config) error { return nil }
	for name, test := range map[string]struct {
		fail string
		opt  diff.Opt
	}{
		"truncate": {"truncate", none}, "write": {"write", none}, "commit": {"commit", none},
		"write zstd":         {"write", diff.WithMediaType(ocispecs.MediaTypeImageLayerZstd)},
		"write plain":        {"write", diff.WithMediaType(ocispecs.MediaTypeImageLayer)},
		"compressor start":   {"", brokenCompressor("start")},
		"compressor write":   {"", brokenCompressor("write")},
		"compressor closing": {"", brokenCompressor("close")},
	} {
		t.Run(name, func(t *testing.T) {
			for _, ref := range []string{"", "stable"} {
				cs, closed, written := newStore(t), 0, 0
				h := &hooked{Store: cs, wrap: func(w content.Writer) content.Writer { return &writer{w, test.fail, &written, &closed} }}
				desc, err := differ.New(h).Compare(t.Context(), nil, bind(dir), diff.WithReference(ref), test.opt)
				require.ErrorIs(t, err, errDisk)
				require.Empty(t, desc)
				require.Equal(t, 1, closed)
				if ref == "" {
					require.Equal(t, 1, h.aborts)
					noUploads(t, cs)
					continue
				}
				require.Zero(t, h.aborts)
				_, err = cs.Status(t.Context(), ref)
				require.NoError(t, err, "the upload of a stable reference stays")
				desc, err = differ.New(cs).Compare(t.Context(), nil, bind(dir), diff.WithReference(ref))
				require.NoError(t, err)
				requireArchive(t, containerd(t, "", dir), unpacked(t, cs, desc))
				noUploads(t, cs)
			}
		})
	}
}

// noise does not compress.
func noise(n int) string {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

// A tree that does not exist is an error that says so, with nothing left.
func TestNoTree(t *testing.T) {
	cs, dir := newStore(t), t.TempDir()
	for _, upper := range [][]mount.Mount{bind(filepath.Join(dir, "none")), bind(write(t, tree.File("f", "")) + "/f")} {
		_, err := differ.New(cs).Compare(t.Context(), nil, upper)
		require.Error(t, err)
		noUploads(t, cs)
	}
	_, err := differ.New(cs).Compare(t.Context(), nil, bind(filepath.Join(dir, "none")))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Writers of one reference wait for one another; cancelling the wait ends it (spec BLOB-6; fault 13).
func TestBusyReference(t *testing.T) {
	dir, cs := sample(t), newStore(t)
	busy, err := cs.Writer(t.Context(), content.WithRef("record"))
	require.NoError(t, err)
	_, err = busy.Write([]byte("what a cancelled export left"))
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = differ.New(cs).Compare(ctx, nil, bind(dir), diff.WithReference("record"))
	require.True(t, errdefs.IsUnavailable(err), "%v", err)

	type result struct {
		desc ocispecs.Descriptor
		err  error
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			desc, err := differ.New(cs).Compare(t.Context(), nil, bind(dir), diff.WithReference("record"))
			results <- result{desc, err}
		}()
	}
	require.NoError(t, busy.Close())
	first, second := <-results, <-results
	require.NoError(t, first.err)
	require.Equal(t, first, second)
	requireArchive(t, containerd(t, "", dir), unpacked(t, cs, first.desc))
	noUploads(t, cs)
}
