package cache_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// registry serves blobs from memory, and counts and disturbs what is read.
type registry struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	opens map[digest.Digest]int
	// before, if set, is asked before a blob is opened.
	before func(ctx context.Context, d digest.Digest) error
	// alter, if set, changes what is delivered.
	alter func(d digest.Digest, data []byte) []byte
}

func newRegistry() *registry {
	return &registry{blobs: map[digest.Digest][]byte{}, opens: map[digest.Digest]int{}}
}

func (r *registry) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	r.mu.Lock()
	r.opens[desc.Digest]++
	data, ok := r.blobs[desc.Digest]
	before, alter := r.before, r.alter
	r.mu.Unlock()
	if before != nil {
		if err := before(ctx, desc.Digest); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	if alter != nil {
		data = alter(desc.Digest, data)
	}
	return blobReader{bytes.NewReader(data)}, nil
}

type blobReader struct{ *bytes.Reader }

func (blobReader) Close() error { return nil }

// opened returns how often a blob was asked for.
func (r *registry) opened(d digest.Digest) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opens[d]
}

// disturb sets what happens when blobs are read; nil is nothing.
func (r *registry) disturb(before func(ctx context.Context, d digest.Digest) error, alter func(d digest.Digest, data []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.alter = before, alter
}

// handlers returns descriptor handlers for blobs of the registry.
func (r *registry) handlers(descs ...ocispecs.Descriptor) cache.DescHandlers {
	dhs := cache.DescHandlers{}
	for _, desc := range descs {
		dhs[desc.Digest] = &cache.DescHandler{Provider: func(session.Group) content.Provider { return r }, Ref: "registry.test/image"}
	}
	return dhs
}

// layer packs entries and adds the blob. compression is "", "gzip" or "zstd".
func (r *registry) layer(t testing.TB, compression string, entries ...tree.Entry) ocispecs.Descriptor {
	t.Helper()
	plain, err := tree.Tar(entries...)
	require.NoError(t, err)
	return r.blob(t, compression, plain)
}

// blob compresses an archive and adds the blob.
func (r *registry) blob(t testing.TB, compression string, plain []byte) ocispecs.Descriptor {
	t.Helper()
	var buf bytes.Buffer
	mediaType := ocispecs.MediaTypeImageLayer
	var w io.WriteCloser
	switch compression {
	case "gzip":
		w, mediaType = gzip.NewWriter(&buf), ocispecs.MediaTypeImageLayerGzip
	case "zstd":
		zw, err := zstd.NewWriter(&buf)
		require.NoError(t, err)
		w, mediaType = zw, ocispecs.MediaTypeImageLayerZstd
	default:
		buf.Write(plain)
	}
	if w != nil {
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	data := buf.Bytes()
	desc := ocispecs.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
		Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(plain).String()},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[desc.Digest] = data
	return desc
}

func diffIDOf(desc ocispecs.Descriptor) digest.Digest {
	return digest.Digest(desc.Annotations["containerd.io/uncompressed"])
}

// byBlob gets a layer whose blob the registry has.
func byBlob(t testing.TB, env *testutil.Env, r *registry, desc ocispecs.Descriptor, parent cache.ImmutableRef, opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	all := []ocispecs.Descriptor{}
	r.mu.Lock()
	for d := range r.blobs {
		all = append(all, ocispecs.Descriptor{Digest: d})
	}
	r.mu.Unlock()
	ref, err := env.Manager.GetByBlob(ctx, desc, parent, append([]cache.RefOption{r.handlers(all...)}, opts...)...)
	require.NoError(t, err)
	return ref
}
