package codec

import (
	"context"
	"io"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/layertype"
)

const (
	gzipLowest, gzipHighest = flate.DefaultCompression, flate.BestCompression
	zstdLowest, zstdHighest = 1, 22
	// gzipBlock is how much of the data is compressed by itself. It is part of the format in so far as another value makes
	// other blobs; large enough to cost less than a thousandth of the size.
	gzipBlock = 1 << 20
)

// uncompressedType implements Uncompressed.
type uncompressedType struct{}

func (uncompressedType) Compress(context.Context, compression.Config) (compression.Compressor, compression.Finalizer) {
	return func(dest io.Writer, _ string) (io.WriteCloser, error) { return plainWriter{dest}, nil }, nil
}

// plainWriter writes through; closing it leaves the destination open.
type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// Transparent says that what is written arrives as it is: a digest of the one is a digest of the other.
func (plainWriter) Transparent() bool { return true }

func (uncompressedType) Decompress(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	return openBlob(ctx, cs, desc)
}

func (uncompressedType) NeedsConversion(_ context.Context, _ content.Store, desc ocispecs.Descriptor) (bool, error) {
	return needsOther(desc, layertype.None), nil
}

func (uncompressedType) NeedsComputeDiffBySelf(compression.Config) bool { return false }
func (uncompressedType) OnlySupportOCITypes() bool                      { return false }
func (uncompressedType) MediaType() string                              { return ocispecs.MediaTypeImageLayer }
func (uncompressedType) String() string                                 { return "uncompressed" }

// gzipType implements Gzip.
type gzipType struct{}

func (gzipType) Compress(_ context.Context, cfg compression.Config) (compression.Compressor, compression.Finalizer) {
	return func(dest io.Writer, _ string) (io.WriteCloser, error) {
		cfg.Type = Gzip
		if err := CheckLevel(cfg); err != nil {
			return nil, err
		}
		g := &gzipWriter{dest: dest}
		var err error
		if g.gz, err = pgzip.NewWriterLevel(writerFunc(g.pass), gzipLevel(cfg)); err != nil {
			return nil, err
		}
		if err := g.gz.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0)); err != nil {
			return nil, err
		}
		return g, nil
	}, nil
}

// gzipWriter keeps errors of the destination from pgzip, which leaves a goroutine behind when it is closed after one.
type gzipWriter struct {
	gz   *pgzip.Writer
	dest io.Writer
	mu   sync.Mutex // pgzip writes from a goroutine
	err  error
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// pass writes to the destination until that fails.
func (g *gzipWriter) pass(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		_, g.err = g.dest.Write(p)
	}
	return len(p), nil
}

func (g *gzipWriter) failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *gzipWriter) Write(p []byte) (int, error) {
	if err := g.failure(); err != nil {
		return 0, err
	}
	return g.gz.Write(p)
}

func (g *gzipWriter) Close() error {
	err := g.gz.Close()
	if failure := g.failure(); failure != nil {
		return failure
	}
	return err
}

func gzipLevel(cfg compression.Config) int {
	if cfg.Level == nil {
		return flate.DefaultCompression
	}
	return *cfg.Level
}

func (gzipType) Decompress(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	return openBlob(ctx, cs, desc)
}

func (gzipType) NeedsConversion(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (bool, error) {
	switch layertype.CompressionOf(desc.MediaType) {
	case layertype.Unknown:
		return false, nil
	case layertype.Gzip:
		return IsEStargz(ctx, cs, desc.Digest)
	case layertype.None, layertype.Zstd:
	}
	return true, nil
}

// NeedsComputeDiffBySelf is true with a level, which generic differs know nothing of.
func (gzipType) NeedsComputeDiffBySelf(cfg compression.Config) bool { return cfg.Level != nil }
func (gzipType) OnlySupportOCITypes() bool                          { return false }
func (gzipType) MediaType() string                                  { return ocispecs.MediaTypeImageLayerGzip }
func (gzipType) String() string                                     { return "gzip" }

// zstdType implements Zstd.
type zstdType struct{}

func (zstdType) Compress(_ context.Context, cfg compression.Config) (compression.Compressor, compression.Finalizer) {
	return func(dest io.Writer, _ string) (io.WriteCloser, error) {
		cfg.Type = Zstd
		if err := CheckLevel(cfg); err != nil {
			return nil, err
		}
		opts := []zstd.EOption{zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0))}
		if cfg.Level != nil {
			opts = append(opts, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(*cfg.Level)))
		}
		return zstd.NewWriter(dest, opts...)
	}, nil
}

func (zstdType) Decompress(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	return openBlob(ctx, cs, desc)
}

func (zstdType) NeedsConversion(_ context.Context, _ content.Store, desc ocispecs.Descriptor) (bool, error) {
	return needsOther(desc, layertype.Zstd), nil
}

func (zstdType) NeedsComputeDiffBySelf(compression.Config) bool { return true }
func (zstdType) OnlySupportOCITypes() bool                      { return false }
func (zstdType) MediaType() string                              { return ocispecs.MediaTypeImageLayerZstd }
func (zstdType) String() string                                 { return "zstd" }

// needsOther tells whether a layer's media type names another compression. What is no layer is never converted (spec COMP-2).
func needsOther(desc ocispecs.Descriptor, want layertype.Compression) bool {
	have := layertype.CompressionOf(desc.MediaType)
	return have != layertype.Unknown && have != want
}
