package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// countedContent counts calls of the content store, and its write transactions.
type countedContent struct {
	content.Store
	c *benchCache
}

func (s *countedContent) write(ctx context.Context) {
	s.c.blobs.Add(1)
	s.c.countWrite(ctx)
}

func (s *countedContent) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	s.c.blobs.Add(1)
	return s.Store.Info(ctx, d)
}

func (s *countedContent) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	s.c.blobs.Add(1)
	return s.Store.ReaderAt(ctx, desc)
}

func (s *countedContent) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	s.write(ctx)
	return s.Store.Update(ctx, info, fieldpaths...)
}

func (s *countedContent) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	s.write(ctx)
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &countedWriter{w, s}, nil
}

type countedWriter struct {
	content.Writer
	s *countedContent
}

func (w *countedWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	w.s.write(ctx)
	return w.Writer.Commit(ctx, size, expected, opts...)
}

// getChain gets refs to layers, bottom first, and returns the last one.
func (c *benchCache) getChain(ctx context.Context, layers []ocispecs.Descriptor, handlers cache.DescHandlers) (cache.ImmutableRef, error) {
	var top cache.ImmutableRef
	for _, desc := range layers {
		next, err := c.GetByBlob(ctx, desc, top, handlers)
		if err != nil {
			return nil, err
		}
		if top != nil {
			if err := top.Release(ctx); err != nil {
				return nil, err
			}
		}
		top = next
	}
	return top, nil
}

// unseen describes layers that are nowhere.
func unseen(name string, n int) (layers []ocispecs.Descriptor) {
	for i := range n {
		layer := fmt.Sprintf("%s/%d", name, i)
		layers = append(layers, ocispecs.Descriptor{
			MediaType:   ocispecs.MediaTypeImageLayerGzip,
			Digest:      digest.FromString(layer),
			Size:        1 << 20,
			Annotations: map[string]string{"containerd.io/uncompressed": digest.FromString("plain " + layer).String()},
		})
	}
	return layers
}

// image makes gzip layers of files with 8 KiB each, half of which is noise.
func (r *registry) image(b *testing.B, seed uint64, layers, files int) (descs []ocispecs.Descriptor) {
	b.Helper()
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for i := range layers {
		entries := []tree.Entry{tree.Dir("d")}
		for j := range files {
			data := make([]byte, 8<<10)
			_, err := noise.Read(data[:4<<10])
			require.NoError(b, err)
			entries = append(entries, tree.File(fmt.Sprintf("d/layer%d-%d", i, j), string(data)))
		}
		descs = append(descs, r.layer(b, "gzip", entries...))
	}
	return descs
}

const benchChain = 10

// BenchmarkGetByBlobMiss is row 5: a chain of layers that are new, of which nothing is pulled. An op is the whole chain.
func BenchmarkGetByBlobMiss(b *testing.B) {
	c := openBench(b, local.Native)
	c.reset(b)
	for i := 0; b.Loop(); i++ {
		layers := unseen(fmt.Sprint(i), benchChain)
		top, err := c.getChain(b.Context(), layers, newRegistry().handlers(layers...))
		if err == nil {
			err = top.Release(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	c.report(b)
}

// BenchmarkGetByBlobHit is row 6: a chain that is there. An op is the whole chain.
func BenchmarkGetByBlobHit(b *testing.B) {
	for _, state := range []string{"lazy", "extracted"} {
		b.Run(state, func(b *testing.B) {
			c, layers, handlers, id := openChain(b, benchChain, state == "extracted")
			c.reset(b)
			for b.Loop() {
				top, err := c.getChain(b.Context(), layers, handlers)
				if err == nil {
					err = top.Release(b.Context())
				}
				if err != nil || top.ID() != id {
					b.Fatal(top, err)
				}
			}
			c.report(b)
			require.Zero(b, c.blobs.Load(), "calls of the content store")
		})
	}
}

// BenchmarkGetDeepChain is the second part of row 6: the top of 100 extracted layers.
func BenchmarkGetDeepChain(b *testing.B) {
	c, _, _, id := openChain(b, 100, true)
	c.reset(b)
	for b.Loop() {
		if err := c.getRelease(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	c.report(b)
	require.Zero(b, c.blobs.Load(), "calls of the content store")
}

// openChain opens a cache with a chain of small layers and returns the ID of the top.
func openChain(b *testing.B, length int, extracted bool) (c *benchCache, layers []ocispecs.Descriptor, handlers cache.DescHandlers, id string) {
	b.Helper()
	c = openBench(b, local.Native)
	r := newRegistry()
	layers = r.image(b, 1, length, 1)
	handlers = r.handlers(layers...)
	top, err := c.getChain(b.Context(), layers, handlers)
	require.NoError(b, err)
	if extracted {
		require.NoError(b, top.Extract(b.Context(), nil))
	}
	require.NoError(b, top.Release(b.Context()))
	return c, layers, handlers, top.ID()
}

// BenchmarkExtract is row 17 without a network: an op pulls and extracts an image of ten layers with 100 files of 8 KiB each.
func BenchmarkExtract(b *testing.B) {
	for _, snapshotter := range []string{local.Overlayfs, local.Native} {
		b.Run("snapshotter="+snapshotter, func(b *testing.B) {
			if snapshotter == local.Overlayfs {
				need.Overlay(b)
			}
			c := openBench(b, snapshotter)
			r := newRegistry()
			b.SetBytes(benchChain * 100 * 8 << 10)
			c.reset(b)
			for i := uint64(0); b.Loop(); i++ {
				b.StopTimer()
				layers := r.image(b, i, benchChain, 100)
				handlers := r.handlers(layers...)
				b.StartTimer()
				top, err := c.getChain(b.Context(), layers, handlers)
				if err == nil {
					err = top.Extract(b.Context(), nil)
				}
				if err != nil {
					b.Fatal(err)
				}
				require.NoError(b, top.Release(b.Context()))
			}
			c.report(b)
		})
	}
}
