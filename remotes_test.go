package cache_test

import (
	"io"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
)

// as is the wish for a compression.
func as(kind compression.Type) remote.RefConfig {
	return remote.RefConfig{Compression: compression.Config{Type: kind}}
}

// forced is the wish for nothing but a compression.
func forced(kind compression.Type) remote.RefConfig {
	return remote.RefConfig{Compression: compression.Config{Type: kind, Force: true}}
}

// export returns the only remote of a ref, whose missing blobs are made.
func export(t testing.TB, ref cache.ImmutableRef, cfg remote.RefConfig) *remote.Remote {
	t.Helper()
	remotes, err := ref.GetRemotes(ctx, true, cfg, false, nil)
	require.NoError(t, err)
	require.Len(t, remotes, 1)
	return remotes[0]
}

// readBlob reads a blob from a remote's provider and verifies it.
func readBlob(t testing.TB, r *remote.Remote, desc ocispecs.Descriptor) []byte {
	t.Helper()
	ra, err := r.Provider.ReaderAt(ctx, desc)
	require.NoError(t, err)
	defer ra.Close()
	data, err := io.ReadAll(content.NewReader(ra))
	require.NoError(t, err)
	require.Equal(t, desc.Digest, digest.FromBytes(data))
	require.Equal(t, desc.Size, int64(len(data)))
	return data
}

// TestExport: a chain of built layers gets blobs, by which the same records are found again.
func TestExport(t *testing.T) { // spec RMT-1, RMT-3, BLOB-1, BLOB-8, BLOB-10, CHAIN-1, CHAIN-3, CHAIN-4, DESC-1, DESC-4, DESC-5, scenarios S-7, S-8, quirk Q80
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := testutil.MakeLayer(t, env, nil, fileIn(t, "a", "1"), cache.CachePolicyRetain)
		require.NoError(t, base.Finalize(ctx))
		child := testutil.MakeLayer(t, env, base, fileIn(t, "b", "2"), cache.CachePolicyRetain)
		_, err := env.Manager.GetByBlob(ctx, ocispecs.Descriptor{Annotations: map[string]string{"containerd.io/uncompressed": digest.FromString("x").String()}}, child)
		require.ErrorContains(t, err, "non-addressable")

		r := export(t, child, remote.RefConfig{})
		require.Len(t, r.Descriptors, 2)
		for _, desc := range r.Descriptors {
			require.Equal(t, ocispecs.MediaTypeImageLayerGzip, desc.MediaType)
			readBlob(t, r, desc)
			info, err := r.Provider.Info(ctx, desc.Digest)
			require.NoError(t, err)
			require.Equal(t, desc.Size, info.Size)
		}
		require.Equal(t, child.GetCreatedAt().UTC().Format("2006-01-02T15:04:05.999999999Z07:00"), r.Descriptors[1].Annotations["buildkit/createdat"])

		diffs := []digest.Digest{diffIDOf(r.Descriptors[0]), diffIDOf(r.Descriptors[1])}
		require.Equal(t, string(diffs[0]), base.GetString("cache.chainID"))
		require.Equal(t, identity.ChainID(diffs).String(), child.GetString("cache.chainID"))
		blobs := []digest.Digest{identity.ChainID([]digest.Digest{r.Descriptors[0].Digest, diffs[0]}), identity.ChainID([]digest.Digest{r.Descriptors[1].Digest, diffs[1]})}
		require.Equal(t, identity.ChainID(blobs).String(), child.GetString("cache.blobChainID"))

		again, err := env.Manager.GetByBlob(ctx, r.Descriptors[1], base)
		require.NoError(t, err)
		require.Equal(t, child.ID(), again.ID())
		other := export(t, child, as(codec.Zstd))
		require.Equal(t, r.Descriptors, other.Descriptors, "what is there is not made anew")
		release(t, base, child, again)
	})
}
