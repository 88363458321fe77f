package codec_test

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil/tree"
)

const (
	uncompressed = "containerd.io/uncompressed"
	isEStargz    = "buildkit.io/compression/estargz"
)

func put(t *testing.T, cs content.Store, data []byte, mediaType string, diffID digest.Digest) ocispecs.Descriptor {
	t.Helper()
	desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if diffID != "" {
		desc.Annotations = map[string]string{uncompressed: diffID.String()}
	}
	require.NoError(t, content.WriteBlob(ctx, cs, desc.Digest.String(), bytes.NewReader(data), desc))
	return desc
}

func readBlob(t *testing.T, cs content.Store, desc ocispecs.Descriptor) []byte {
	t.Helper()
	data, err := content.ReadBlob(ctx, cs, desc)
	require.NoError(t, err)
	return data
}

func inside(t *testing.T, cs content.Store, of compression.Type, desc ocispecs.Descriptor) []byte {
	t.Helper()
	r, err := of.Decompress(ctx, cs, desc)
	require.NoError(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

func noIngests(t *testing.T, cs content.Store) {
	t.Helper()
	left, err := cs.ListStatuses(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestConversions: for all ordered pairs the archive stays what it is, byte for byte.
func TestConversions(t *testing.T) { // spec COMP-2, COMP-3, COMP-4, quirk Q50
	for name, data := range map[string][]byte{"small": archive(t, 1, 1000), "large": archive(t, 2, 5<<16), "empty": archive(t, 3, 0)} {
		for _, from := range all {
			for _, to := range all {
				cs := openStore(t) // in which the result is new
				src, err := codec.Convert(ctx, cs, put(t, cs, data, ocispecs.MediaTypeImageLayer, digest.FromBytes(data)), compression.Config{Type: from})
				require.NoError(t, err)
				src.URLs = []string{"https://example.com/layer"}
				before := readBlob(t, cs, src)

				needs, err := to.NeedsConversion(ctx, cs, src)
				require.NoError(t, err)
				require.Equal(t, from != to, needs, "%s: %s to %s", name, from, to)
				out, err := codec.Convert(ctx, cs, src, compression.Config{Type: to})
				require.NoError(t, err, "%s: %s to %s", name, from, to)
				if from == to {
					require.Equal(t, src, out)
					continue
				}
				require.Equal(t, before, readBlob(t, cs, src))
				require.Equal(t, to.MediaType(), out.MediaType)
				require.Empty(t, out.URLs)
				require.True(t, bytes.Equal(data, inside(t, cs, to, out)), "%s: %s to %s", name, from, to)
				requireDescribed(t, cs, to, out, data)
				needs, err = to.NeedsConversion(ctx, cs, out)
				require.NoError(t, err)
				require.False(t, needs)
				again, err := codec.Convert(ctx, cs, src, compression.Config{Type: to})
				require.NoError(t, err, "it exists already")
				require.Equal(t, out, again)
				noIngests(t, cs)
			}
		}
	}
}

// requireDescribed compares descriptor and labels with what the blob really holds.
func requireDescribed(t *testing.T, cs content.Store, of compression.Type, desc ocispecs.Descriptor, data []byte) {
	t.Helper()
	blob := readBlob(t, cs, desc)
	require.Equal(t, digest.FromBytes(blob), desc.Digest)
	require.EqualValues(t, len(blob), desc.Size)
	want := map[string]string{uncompressed: digest.FromBytes(data).String()}
	if of == codec.EStargz {
		plain := gunzip(t, blob)
		want[uncompressed] = digest.FromBytes(plain).String()
		want["io.containers.estargz.uncompressed-size"] = strconv.Itoa(len(plain))
		want["containerd.io/snapshot/stargz/toc.digest"] = desc.Annotations["containerd.io/snapshot/stargz/toc.digest"]
		require.NoError(t, digest.Digest(want["containerd.io/snapshot/stargz/toc.digest"]).Validate())
	}
	require.Equal(t, want, desc.Annotations)
	info, err := cs.Info(ctx, desc.Digest)
	require.NoError(t, err)
	require.Equal(t, want[uncompressed], info.Labels[uncompressed])
	is, err := codec.IsEStargz(ctx, cs, desc.Digest)
	require.NoError(t, err)
	require.Equal(t, of == codec.EStargz, is)
}

// TestWhatNeedsNoConversion: what is no layer, and what has another media type of the same compression.
func TestWhatNeedsNoConversion(t *testing.T) { // spec COMP-2
	cs := openStore(t)
	for _, of := range all {
		needs, err := of.NeedsConversion(ctx, cs, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("x")})
		require.NoError(t, err)
		require.False(t, needs)
	}
	lazy := ocispecs.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: digest.FromString("elsewhere"), Size: 9}
	for of, want := range map[compression.Type]bool{codec.Uncompressed: true, codec.Gzip: false, codec.EStargz: true, codec.Zstd: true} {
		needs, err := of.NeedsConversion(ctx, cs, lazy)
		require.NoError(t, err)
		require.Equal(t, want, needs, of.String())
	}
	_, err := codec.Convert(ctx, cs, lazy, compression.Config{Type: codec.Zstd})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	noIngests(t, cs)
	out, err := codec.Convert(ctx, cs, lazy, compression.Config{})
	require.NoError(t, err, "no type is gzip")
	require.Equal(t, lazy, out)
}

// TestIsEStargz: the label counts, and without one the data, of which nothing is taken on trust.
func TestIsEStargz(t *testing.T) { // spec COMP-3
	cs := openStore(t)
	is, err := codec.IsEStargz(ctx, cs, digest.FromString("not here"))
	require.NoError(t, err)
	require.False(t, is)

	data := archive(t, 1, 1000)
	blob := compress(t, codec.EStargz, compression.Config{}, data, 1)
	desc := put(t, cs, blob, ocispecs.MediaTypeImageLayerGzip, "")
	is, err = codec.IsEStargz(ctx, cs, desc.Digest)
	require.NoError(t, err)
	require.True(t, is)
	info, err := cs.Info(ctx, desc.Digest)
	require.NoError(t, err)
	require.Equal(t, "true", info.Labels[isEStargz])

	footer := blob[len(blob)-51:]
	for name, data := range map[string][]byte{
		"plain gzip": compress(t, codec.Gzip, compression.Config{}, data, 1),
		"empty":      nil,
		"footer":     footer,
		"no index":   append(compress(t, codec.Gzip, compression.Config{}, data, 1), footer...),
		"cut":        blob[:len(blob)-1],
	} {
		desc := put(t, cs, data, ocispecs.MediaTypeImageLayerGzip, "")
		is, err := codec.IsEStargz(ctx, cs, desc.Digest)
		require.NoError(t, err, name)
		require.False(t, is, name)
		info, err := cs.Info(ctx, desc.Digest)
		require.NoError(t, err)
		require.Equal(t, "false", info.Labels[isEStargz], name)
	}

	// A label that lies makes an error, not a panic or a wrong archive.
	lie := put(t, cs, data, ocispecs.MediaTypeImageLayer, "")
	_, err = cs.Update(ctx, content.Info{Digest: lie.Digest, Labels: map[string]string{isEStargz: "true"}}, "labels."+isEStargz)
	require.NoError(t, err)
	_, err = codec.Uncompressed.Decompress(ctx, cs, lie)
	require.ErrorIs(t, err, errdefs.ErrDataLoss)
}

// faulty is a content store whose calls fail, once, at the n-th of them.
type faulty struct {
	content.Store
	n    int64
	at   atomic.Int64
	fail error
}

func (f *faulty) hit() error {
	if f.at.Add(1) == f.n {
		return f.fail
	}
	return nil
}

func (f *faulty) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if err := f.hit(); err != nil {
		return content.Info{}, err
	}
	return f.Store.Info(ctx, d)
}

func (f *faulty) Update(ctx context.Context, info content.Info, paths ...string) (content.Info, error) {
	if err := f.hit(); err != nil {
		return content.Info{}, err
	}
	return f.Store.Update(ctx, info, paths...)
}

func (f *faulty) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if err := f.hit(); err != nil {
		return nil, err
	}
	ra, err := f.Store.ReaderAt(ctx, desc)
	return faultyReader{ra, f}, err
}

type faultyReader struct {
	content.ReaderAt
	f *faulty
}

func (r faultyReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.f.hit(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(p, off)
}

func (f *faulty) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if err := f.hit(); err != nil {
		return nil, err
	}
	w, err := f.Store.Writer(ctx, opts...)
	return faultyWriter{w, f}, err
}

type faultyWriter struct {
	content.Writer
	f *faulty
}

func (w faultyWriter) Write(p []byte) (int, error) {
	if err := w.f.hit(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

func (w faultyWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	if err := w.f.hit(); err != nil {
		return err
	}
	return w.Writer.Commit(ctx, size, expected, opts...)
}

// TestConversionThatFails: at whatever call of the store, the error comes out, and no ingest stays.
func TestConversionThatFails(t *testing.T) { // spec COMP-4, quirk Q51
	cs := openStore(t)
	seed := uint64(0)
	for _, of := range []compression.Type{codec.Uncompressed, codec.EStargz, codec.Zstd} {
		points := 0
		for n := int64(1); ; n++ {
			seed++
			data := archive(t, seed, 30000)
			src := put(t, cs, compress(t, codec.Gzip, compression.Config{}, data, 1), ocispecs.MediaTypeImageLayerGzip, digest.FromBytes(data))
			f := &faulty{Store: cs, n: n, fail: errdefs.ErrInternal}
			out, err := codec.Convert(ctx, f, src, compression.Config{Type: of})
			noIngests(t, cs)
			if f.at.Load() < n {
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, inside(t, cs, of, out)))
				break
			}
			points++
			require.ErrorIs(t, err, errdefs.ErrInternal, "%s, call %d", of, n)
			require.Empty(t, out)
			out, err = codec.Convert(ctx, cs, src, compression.Config{Type: of})
			require.NoError(t, err, "a second attempt")
			require.True(t, bytes.Equal(data, inside(t, cs, of, out)))
		}
		require.Greater(t, points, 5)
	}
}

// TestConversionOfDamage: a source that is not what it is said to be makes no blob.
func TestConversionOfDamage(t *testing.T) { // spec COMP-4
	cs := openStore(t)
	data := archive(t, 1, 100000)
	blob := compress(t, codec.Gzip, compression.Config{}, data, 1)
	lie := put(t, cs, blob, ocispecs.MediaTypeImageLayerGzip, digest.FromString("something else"))
	_, err := codec.Convert(ctx, cs, lie, compression.Config{Type: codec.Zstd})
	require.ErrorIs(t, err, errdefs.ErrDataLoss)
	cut := put(t, cs, blob[:len(blob)/2], ocispecs.MediaTypeImageLayerGzip, digest.FromBytes(data))
	for _, to := range []compression.Type{codec.Uncompressed, codec.EStargz, codec.Zstd} {
		_, err = codec.Convert(ctx, cs, cut, compression.Config{Type: to})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, to.String())
	}
	noLayer := put(t, cs, []byte("{}"), ocispecs.MediaTypeImageManifest, "")
	out, err := codec.Convert(ctx, cs, noLayer, compression.Config{Type: codec.Zstd})
	require.NoError(t, err)
	require.Equal(t, noLayer, out)
	withIndex, err := tree.Tar(tree.File("stargz.index.json", "{}"))
	require.NoError(t, err)
	_, err = codec.Convert(ctx, cs, put(t, cs, withIndex, ocispecs.MediaTypeImageLayer, ""), compression.Config{Type: codec.EStargz})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	noIngests(t, cs)
}

// TestCancelledConversion: nothing stays of it.
func TestCancelledConversion(t *testing.T) {
	cs := openStore(t)
	data := archive(t, 1, 1<<20)
	src := put(t, cs, data, ocispecs.MediaTypeImageLayer, digest.FromBytes(data))
	short, cancel := context.WithCancel(ctx)
	stop := &stopping{Store: cs, cancel: cancel}
	_, err := codec.Convert(short, stop, src, compression.Config{Type: codec.Gzip})
	require.ErrorIs(t, err, context.Canceled)
	noIngests(t, cs)
}

// stopping cancels when it is written to.
type stopping struct {
	content.Store
	cancel func()
}

func (s *stopping) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	s.cancel()
	return s.Store.Writer(context.WithoutCancel(ctx), opts...)
}
