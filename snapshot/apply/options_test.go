package apply_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// TestDigestOfTheWholeStream: the result names the uncompressed stream to its last byte, with what comes after the archive's
// end (spec EXT-7, scenario S-11).
func TestDigestOfTheWholeStream(t *testing.T) {
	archive := append(pack(t, tree.File("f", "x")), bytes.Repeat([]byte("behind the end"), 100_000)...)
	for _, blob := range [][]byte{archive, gz(t, archive), zst(t, archive)} {
		store := &blobs{}
		dir := t.TempDir()
		got, err := apply.New(store).Apply(t.Context(), store.put(blob, layerType), bind(dir))
		require.NoError(t, err)
		requireDiffID(t, archive, got)
		testutil.RequireTree(t, dir, tree.File("f", "x"))
	}
	store := &blobs{}
	got, err := apply.New(store).Apply(t.Context(), store.put(nil, layerType), bind(t.TempDir()))
	require.NoError(t, err, "an empty blob is an empty layer")
	requireDiffID(t, nil, got)
}

// TestProgress: it grows to the blob's size, is called by one goroutine at a time, and not after the return.
func TestProgress(t *testing.T) {
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i * i >> 7) // something to compress
	}
	blob := gz(t, pack(t, tree.File("f", string(data))))
	var (
		mu   sync.Mutex
		seen []int64
		done bool
	)
	store := &blobs{}
	_, err := apply.New(store).Apply(t.Context(), store.put(blob, layerType), bind(t.TempDir()), diff.WithSyncFs(true), diff.WithProgress(func(_ ocispecs.Descriptor, n int64) {
		if !mu.TryLock() {
			t.Error("two calls at a time")
			return
		}
		defer mu.Unlock()
		require.False(t, done)
		seen = append(seen, n)
	}))
	require.NoError(t, err)
	mu.Lock()
	done = true
	mu.Unlock()
	require.NotEmpty(t, seen)
	require.IsNonDecreasing(t, seen)
	require.Zero(t, seen[0])
	require.Equal(t, int64(len(blob)), seen[len(seen)-1])
}

// TestBadCalls: options, mounts and blobs that are no good are typed errors, and change nothing.
func TestBadCalls(t *testing.T) {
	store := &blobs{}
	desc := store.put(pack(t, tree.File("f", "x")), layerType)
	a := apply.New(store, nil)
	dir := t.TempDir()
	_, err := a.Apply(t.Context(), desc, nil)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	_, err = a.Apply(t.Context(), desc, []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}})
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	_, err = a.Apply(t.Context(), desc, bind(dir), func(context.Context, ocispecs.Descriptor, *diff.ApplyConfig) error { return errdefs.ErrUnavailable })
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	absent := desc
	absent.Digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	_, err = a.Apply(t.Context(), absent, bind(dir))
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.ErrorContains(t, err, absent.Digest.String())
	testutil.RequireTree(t, dir)

	_, err = a.Apply(t.Context(), desc, bind(filepath.Join(dir, "absent")))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = a.Apply(t.Context(), desc, bind(filepath.Join(dir, "absent")), diff.WithSyncFs(true))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Zero(t, store.open)
}

// hanging is a store whose blob stops coming half way, until its context ends.
type hanging struct {
	data    []byte
	reached chan struct{}
	once    sync.Once
	closed  bool
}

func (h *hanging) ReaderAt(ctx context.Context, _ ocispecs.Descriptor) (content.ReaderAt, error) {
	return &hangingReader{hanging: h, ctx: ctx}, nil
}

type hangingReader struct {
	*hanging
	ctx context.Context
}

func (r *hangingReader) ReadAt(p []byte, off int64) (int, error) {
	half := int64(len(r.data) / 2)
	if off >= half {
		r.once.Do(func() { close(r.reached) })
		<-r.ctx.Done()
		return 0, errors.WithStack(r.ctx.Err())
	}
	return copy(p[:min(int64(len(p)), half-off)], r.data[off:half]), nil
}

func (r *hangingReader) Size() int64 { return int64(len(r.data)) }

func (r *hangingReader) Close() error { r.closed = true; return nil }

// TestCancelled: the end of the context ends unpacking at once, also while the blob does not come, and everything is closed
// (fault 26; quirk Q43). TestMain looks for goroutines that are left.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := &hanging{data: pack(t, tree.File("f", mebibyte), tree.File("g", mebibyte)), reached: make(chan struct{})}
	result := make(chan error, 1)
	go func() {
		_, err := apply.New(h).Apply(ctx, ocispecs.Descriptor{MediaType: layerType}, bind(t.TempDir()))
		result <- err
	}()
	<-h.reached
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	require.True(t, h.closed)

	store := &blobs{}
	_, err := apply.New(store).Apply(ctx, store.put(nil, layerType), bind(t.TempDir()))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, store.open)
}

// failing is a store whose blob cannot be read to its end.
type failing struct{ data []byte }

func (f *failing) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	return &failingReader{bytes.NewReader(f.data)}, nil
}

type failingReader struct{ *bytes.Reader }

func (r *failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off > r.Size()/2 {
		return 0, errors.Wrap(errdefs.ErrDataLoss, "disk")
	}
	return r.Reader.ReadAt(p[:min(len(p), 10_000)], off)
}

func (*failingReader) Close() error { return nil }

// TestBlobFails: an error of the store keeps its category and is not blamed on the layer (fault 25).
func TestBlobFails(t *testing.T) {
	noise := make([]byte, 1<<20) // which no compression makes smaller than what is read at once
	random := rand.NewChaCha8([32]byte{1})
	_, err := random.Read(noise)
	require.NoError(t, err)
	archive := pack(t, tree.File("f", string(noise)))
	for _, blob := range [][]byte{archive, gz(t, archive), zst(t, archive)} {
		_, err := apply.New(&failing{blob}).Apply(t.Context(), ocispecs.Descriptor{MediaType: layerType}, bind(t.TempDir()))
		require.True(t, errdefs.IsDataLoss(err), "%v", err)
		require.False(t, errdefs.IsInvalidArgument(err), "%v", err)
	}
}

// TestSparseFile: the holes of files in both of GNU tar's ways of saying so are filled (spec EXT-6).
func TestSparseFile(t *testing.T) {
	// PAX format 0.1: a map of offsets and lengths, then the data of the parts.
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	part := "some data"
	require.NoError(t, w.WriteHeader(&tar.Header{
		Name: "sparse", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(part)), Uid: os.Geteuid(), Gid: os.Getegid(), Format: tar.FormatPAX,
		PAXRecords: map[string]string{
			"XXX.sparse.numblocks": "2", "XXX.sparse.map": "1000000," + strconv.Itoa(len(part)) + ",2000000,0", "XXX.sparse.size": "2000000",
		},
	}))
	_, err := io.WriteString(w, part)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	// The writer keeps these names for itself.
	pax := bytes.ReplaceAll(buf.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse"))

	// The old format: type S, the map in the header.
	var old bytes.Buffer
	w = tar.NewWriter(&old)
	require.NoError(t, w.WriteHeader(&tar.Header{
		Name: "sparse", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(part)), Uid: os.Geteuid(), Gid: os.Getegid(), Format: tar.FormatGNU,
	}))
	_, err = io.WriteString(w, part)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	gnu := reheader(old.Bytes(), func(h []byte) {
		h[156] = tar.TypeGNUSparse
		copy(h[386:], "00003641100\x0000000000011\x00") // 1000000, 9
		copy(h[410:], "00007502200\x0000000000000\x00") // 2000000, 0
		copy(h[483:], "00007502200\x00")                // the whole size
	})
	for name, archive := range map[string][]byte{"pax": pax, "gnu": gnu} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			applyBind(t, dir, archive)
			got, err := os.ReadFile(filepath.Join(dir, "sparse"))
			require.NoError(t, err)
			want := make([]byte, 2_000_000)
			copy(want[1_000_000:], part)
			require.True(t, bytes.Equal(want, got))
		})
	}
}

// TestConcurrent: one Applier unpacks many layers at a time, synced.
func TestConcurrent(t *testing.T) {
	archive := pack(t, tree.Dir("d"), tree.File("d/f", mebibyte), tree.File("g", "x"))
	store := &blobs{}
	desc := store.put(archive, layerType)
	a := apply.New(lockedStore{store: store, mu: &sync.Mutex{}})
	var wg sync.WaitGroup
	for range 8 {
		dir := t.TempDir()
		wg.Go(func() {
			_, err := a.Apply(t.Context(), desc, bind(dir), diff.WithSyncFs(true))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// lockedStore makes blobs safe for concurrent use.
type lockedStore struct {
	store *blobs
	mu    *sync.Mutex
}

func (s lockedStore) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ra, err := s.store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	return lockedReader{ra, s.mu}, nil
}

type lockedReader struct {
	content.ReaderAt
	mu *sync.Mutex
}

func (r lockedReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ReaderAt.Close()
}
