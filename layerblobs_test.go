package cache_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// nydusLike is a compression that the library does not know: an embedder's, told from others by media type and annotation.
type nydusLike struct{}

const (
	nydusMediaType  = "application/vnd.oci.image.layer.nydus.blob.v1"
	nydusAnnotation = "containerd.io/snapshot/nydus-blob"
)

func (nydusLike) Compress(context.Context, compression.Config) (compression.Compressor, compression.Finalizer) {
	return func(dest io.Writer, _ string) (io.WriteCloser, error) {
			w := gzip.NewWriter(dest)
			w.Comment = "no gzip blob is the same"
			return w, nil
		},
		func(context.Context, content.Store) (map[string]string, error) {
			return map[string]string{nydusAnnotation: "true", "unknown": "lost"}, nil
		}
}

func (nydusLike) Decompress(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	dt, err := content.ReadBlob(ctx, cs, desc)
	if err != nil {
		return nil, err
	}
	return gzip.NewReader(bytes.NewReader(dt))
}

func (nydusLike) NeedsConversion(_ context.Context, _ content.Store, desc ocispecs.Descriptor) (bool, error) {
	return desc.MediaType != nydusMediaType || desc.Annotations[nydusAnnotation] == "", nil
}

func (nydusLike) NeedsComputeDiffBySelf(compression.Config) bool { return true }
func (nydusLike) OnlySupportOCITypes() bool                      { return true }
func (nydusLike) MediaType() string                              { return nydusMediaType }
func (nydusLike) String() string                                 { return "nydus" }

// TestLayerBlobs: all layers have the compression and are local, whether they had another, had it and were lazy, or have been converted before.
func TestLayerBlobs(t *testing.T) { // spec VAR-2, VAR-5, RMT-6
	for _, kind := range []compression.Type{codec.Zstd, nydusLike{}} {
		t.Run(kind.String(), func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				descs, refs := chainOf(t, env, r, 3) // gzip, zstd, plain
				top := refs[2]
				blobs, cs, err := cache.LayerBlobs(ctx, top, compression.Config{Type: kind}, nil)
				require.NoError(t, err)
				require.Len(t, blobs, len(descs))
				require.True(t, cs == env.Opt.ContentStore)
				for i, desc := range blobs {
					require.Equal(t, kind.MediaType(), desc.MediaType)
					require.Equal(t, diffIDOf(descs[i]), diffIDOf(desc))
					info, err := cs.Info(ctx, desc.Digest)
					require.NoError(t, err)
					require.Equal(t, desc.Size, info.Size)
					require.NotContains(t, desc.Annotations, "unknown")
				}
				env.Faults.Reset()
				again, _, err := cache.LayerBlobs(ctx, top, compression.Config{Type: kind}, nil)
				require.NoError(t, err)
				require.Equal(t, digestsOf(blobs), digestsOf(again))
				require.Zero(t, env.Faults.Count(fault.OpContentWriter), "%s", env.Faults.Trace())

				_, _, err = cache.LayerBlobs(ctx, struct{ cache.ImmutableRef }{top}, compression.Config{Type: kind}, nil)
				require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
				for _, ref := range refs {
					release(t, ref)
				}
				_, _, err = cache.LayerBlobs(ctx, top, compression.Config{Type: kind}, nil)
				require.True(t, errdefs.IsInvalidArgument(err), "a released ref: %v", err)
			})
		})
	}
}
