package codec_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// openStore opens a real content store.
func openStore(t *testing.T) content.Store {
	t.Helper()
	parts, err := local.OpenParts(ctx, t.TempDir(), local.Options{Snapshotter: "native"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, parts.Close()) })
	return parts.ContentStore
}

// archive is a tar of about size bytes, half of which compress well.
func archive(t testing.TB, seed uint64, size int) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // test data
	var entries []tree.Entry
	for n := 0; n < size; {
		data := make([]byte, r.IntN(size/4+1))
		for i := range data {
			if i < len(data)/2 {
				data[i] = byte(r.Uint32())
			} else {
				data[i] = "abcd"[r.IntN(4)]
			}
		}
		entries = append(entries, tree.File("f"+digest.FromBytes(data).Encoded(), string(data)))
		n += len(data) + 512
	}
	out, err := tree.Tar(entries...)
	require.NoError(t, err)
	return out
}

// compress writes data in pieces whose sizes the seed decides.
func compress(t testing.TB, of compression.Type, cfg compression.Config, data []byte, seed uint64) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // test data
	var out bytes.Buffer
	open, _ := of.Compress(ctx, cfg)
	w, err := open(&out, of.MediaType())
	require.NoError(t, err)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+r.IntN(1<<17))
		m, err := w.Write(rest[:n])
		require.NoError(t, err)
		require.Equal(t, n, m)
		rest = rest[n:]
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

// gunzip is what any reader of gzip makes of a blob.
func gunzip(t testing.TB, blob []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(blob))
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return out
}

// TestStandardDecoders: what is written is what other tools read, at all levels.
func TestStandardDecoders(t *testing.T) { // spec COMP-1, COMP-5
	data := archive(t, 1, 5<<17)
	for level := -1; level <= 9; level += 5 {
		blob := compress(t, codec.Gzip, compression.Config{}.SetLevel(level), data, 7)
		require.True(t, bytes.Equal(data, gunzip(t, blob)), "level %d", level)
	}
	for _, level := range []int{1, 3, 8, 22} {
		blob := compress(t, codec.Zstd, compression.Config{}.SetLevel(level), data, 7)
		d, err := zstd.NewReader(bytes.NewReader(blob))
		require.NoError(t, err)
		out, err := io.ReadAll(d)
		require.NoError(t, err)
		d.Close()
		require.True(t, bytes.Equal(data, out), "level %d", level)
		if tool, err := exec.LookPath("zstd"); err == nil {
			cmd := exec.Command(tool, "-dc")
			cmd.Stdin = bytes.NewReader(blob)
			out, err := cmd.Output()
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, out), "level %d", level)
		}
	}
	plain := compress(t, codec.Uncompressed, compression.Config{}, data, 7)
	require.True(t, bytes.Equal(data, plain))

	// Who knows nothing of estargz sees the archive, and after its last file the index.
	indexed := gunzip(t, compress(t, codec.EStargz, compression.Config{}, data, 7))
	require.True(t, bytes.HasPrefix(indexed, data))
	rest := tar.NewReader(bytes.NewReader(indexed[len(data):]))
	h, err := rest.Next()
	require.NoError(t, err)
	require.Equal(t, "stargz.index.json", h.Name)
}

// TestSameBytes: neither the number of processors nor the sizes of the writes matter.
func TestSameBytes(t *testing.T) {
	data := archive(t, 2, 5<<18)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, of := range all {
		for _, cfg := range []compression.Config{{}, compression.Config{}.SetLevel(1)} {
			runtime.GOMAXPROCS(1)
			one := compress(t, of, cfg, data, 1)
			runtime.GOMAXPROCS(8)
			require.Equal(t, digest.FromBytes(one), digest.FromBytes(compress(t, of, cfg, data, 2)), "%s %v", of, cfg.Level)
		}
	}
	short := archive(t, 3, 100)
	for _, of := range all {
		runtime.GOMAXPROCS(1)
		one := compress(t, of, compression.Config{}, short, 1)
		runtime.GOMAXPROCS(8)
		require.Equal(t, one, compress(t, of, compression.Config{}, short, 2), of.String())
	}
}

func TestLevelsThatDoNotExist(t *testing.T) {
	for of, levels := range map[compression.Type][]int{codec.Gzip: {-2, 10}, codec.EStargz: {-2, 10}, codec.Zstd: {0, -1, 23}} {
		for _, level := range levels {
			open, _ := of.Compress(ctx, compression.Config{}.SetLevel(level))
			_, err := open(io.Discard, of.MediaType())
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%s %d", of, level)
		}
	}
}

// failing is a destination that is full after n bytes.
type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errdefs.ErrResourceExhausted
	}
	return len(p), nil
}

// TestFullDestination: the error of the destination reaches whoever writes or closes, and nothing runs on. // quirk Q51
func TestFullDestination(t *testing.T) {
	data := archive(t, 4, 5<<18)
	for _, of := range all {
		open, _ := of.Compress(ctx, compression.Config{})
		w, err := open(&failing{n: 1 << 18}, of.MediaType())
		require.NoError(t, err)
		_, err = w.Write(data)
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted, of.String())

		// The same with a writer that has known for a while.
		w, err = open(&failing{n: 1 << 10}, of.MediaType())
		require.NoError(t, err)
		for err == nil {
			_, err = w.Write(data)
		}
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted, of.String())
		_ = w.Close() // may say it again
	}
	goleak.VerifyNone(t)
}

// TestArchivesThatEStargzCannotHold: what cannot be kept byte for byte is refused.
func TestArchivesThatEStargzCannotHold(t *testing.T) { // spec COMP-5, quirk Q51
	withIndex, err := tree.Tar(tree.File("a", "x"), tree.File("stargz.index.json", "{}"))
	require.NoError(t, err)
	good := archive(t, 5, 10000)
	for name, data := range map[string][]byte{"an index": withIndex, "cut": good[:700], "no archive": bytes.Repeat([]byte("x"), 2000)} {
		open, finalize := codec.EStargz.Compress(ctx, compression.Config{})
		w, err := open(io.Discard, codec.EStargz.MediaType())
		require.NoError(t, err)
		_, err = w.Write(data)
		cerr := w.Close()
		require.ErrorIs(t, cerr, errdefs.ErrInvalidArgument, name)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
		}
		_, err = finalize(ctx, nil)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
	}
	open, finalize := codec.EStargz.Compress(ctx, compression.Config{})
	_, err = finalize(ctx, nil)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "nothing was written")
	_, err = open(io.Discard, ocispecs.MediaTypeImageLayerZstd)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	w, err := open(io.Discard, ocispecs.MediaTypeImageLayerGzip)
	require.NoError(t, err)
	_, err = finalize(ctx, nil)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "it is being written")
	_, err = w.Write(good)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}
