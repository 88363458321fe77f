package cache_test

import (
	"context"
	"io"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// requireNoBlobs requires the error that an export gives which must not make blobs.
func requireNoBlobs(t *testing.T, ref cache.ImmutableRef, record string) {
	t.Helper()
	remotes, err := ref.GetRemotes(ctx, false, remote.RefConfig{}, true, nil)
	require.ErrorIs(t, err, cache.ErrNoBlobs)
	require.True(t, errdefs.IsFailedPrecondition(err))
	var layer *cache.LayerError
	require.ErrorAs(t, err, &layer)
	require.Equal(t, record, layer.Record)
	require.Nil(t, remotes)
}

// TestExportWithoutBlobs: where none may be made, a record without blobs says so, finalized or not, and stays as it is.
func TestExportWithoutBlobs(t *testing.T) { // spec RMT-2, quirk Q39
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := finalized(t, env, nil, fileIn(t, "a", "1"))
		child := testutil.MakeLayer(t, env, base, fileIn(t, "b", "2"), cache.CachePolicyRetain)
		mutable, ok := child.GetEqualMutable()
		require.True(t, ok)
		env.Faults.Reset()
		requireNoBlobs(t, base, base.ID())
		requireNoBlobs(t, child, base.ID())
		require.Zero(t, env.Faults.Count("db.Update")+env.Faults.Count("leases.*"), "%s", env.Faults.Trace())
		_, ok = child.GetEqualMutable()
		require.True(t, ok, "it is not finalized")

		export(t, base, remote.RefConfig{})
		requireNoBlobs(t, child, child.ID())
		release(t, child)
		again, err := env.Manager.GetMutable(ctx, mutable.ID())
		require.NoError(t, err)
		child = commit(t, again)
		export(t, child, remote.RefConfig{})
		_, ok = child.GetEqualMutable()
		require.False(t, ok, "to make a blob finalizes")
		remotes, err := child.GetRemotes(ctx, false, remote.RefConfig{}, false, nil)
		require.NoError(t, err)
		require.Len(t, remotes[0].Descriptors, 2)
		release(t, base, child)
	})
}

// TestExportOfAContentlessLayer: of a layer that nobody has the content of no blob can be made either.
func TestExportOfAContentlessLayer(t *testing.T) { // spec RMT-2, CHAIN-7, MGR-16
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		desc := ocispecs.Descriptor{
			MediaType:   ocispecs.MediaTypeImageLayer,
			Annotations: map[string]string{"containerd.io/uncompressed": digest.FromString("moby").String()},
		}
		ref, err := env.Manager.GetByBlob(ctx, desc, nil)
		require.NoError(t, err)
		requireNoBlobs(t, ref, ref.ID())
		_, err = ref.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
		require.ErrorIs(t, err, cache.ErrNotExtracted)
		require.Empty(t, found(t, env, "blobchainid:"))
		release(t, ref)
	})
}

// TestExportBadInput: what cannot be right is told before anything happens, by an error of its kind.
func TestExportBadInput(t *testing.T) { // spec RMT-1, quirk Q80, fault 43
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := finalized(t, env, nil, fileIn(t, "f", "x"))
		env.Faults.Reset()
		for _, cfg := range []compression.Config{
			compression.Config{Type: codec.Gzip}.SetLevel(10), compression.Config{Type: codec.Gzip}.SetLevel(-2),
			compression.Config{Type: codec.Zstd}.SetLevel(0), compression.Config{Type: codec.Zstd}.SetLevel(23),
			compression.Config{Type: codec.EStargz}.SetLevel(99), compression.Config{}.SetLevel(77),
		} {
			for _, force := range []bool{false, true} {
				remotes, err := ref.GetRemotes(ctx, true, remote.RefConfig{Compression: cfg.SetForce(force)}, true, nil)
				require.True(t, errdefs.IsInvalidArgument(err), "%+v: %v", cfg, err)
				require.ErrorContains(t, err, ref.ID())
				require.Nil(t, remotes)
			}
		}
		require.Zero(t, env.Faults.Len(), "%s", env.Faults.Trace())
		got := export(t, ref, remote.RefConfig{Compression: compression.Config{Type: codec.Uncompressed}.SetLevel(77)})
		require.Equal(t, ocispecs.MediaTypeImageLayer, got.Descriptors[0].MediaType, "which has no levels to be wrong")
		cfg := remote.RefConfig{Compression: compression.Config{}.SetForce(true)}
		require.Equal(t, ocispecs.MediaTypeImageLayerGzip, export(t, ref, cfg).Descriptors[0].MediaType, "no type means gzip")

		release(t, ref)
		_, err := ref.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
		require.True(t, errdefs.IsInvalidArgument(err), "a released ref: %v", err)
	})
}

// TestExportAfterClose: exports and their providers end with the manager.
func TestExportAfterClose(t *testing.T) { // spec MGR-42
	env := testutil.New(t, testutil.Doubles())
	r := newRegistry()
	desc := r.layer(t, "gzip", tree.File("f", "x"))
	ref := byBlob(t, env, r, desc, nil)
	got := export(t, ref, remote.RefConfig{})
	require.NoError(t, env.Close())
	_, err := ref.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
	require.ErrorIs(t, err, cache.ErrClosed)
	_, err = got.Provider.ReaderAt(ctx, desc)
	require.ErrorIs(t, err, cache.ErrClosed)
	require.ErrorIs(t, tryUnlazy(t, got), cache.ErrClosed)
	require.Zero(t, r.opened(desc.Digest))
	require.NoError(t, ref.Release(ctx))
	env.Open()
}

// ownType is an embedder's own kind of compression: gzip's, by another name, which may fail.
type ownType struct {
	compression.Type
	fail error
}

func (ownType) String() string { return "own" }

func (o ownType) Compress(ctx context.Context, cfg compression.Config) (compression.Compressor, compression.Finalizer) {
	compress, _ := o.Type.Compress(ctx, compression.Config{})
	return func(dest io.Writer, mediaType string) (io.WriteCloser, error) {
			if o.fail != nil {
				return nil, o.fail
			}
			return compress(dest, mediaType)
		}, func(context.Context, content.Store) (map[string]string, error) {
			return map[string]string{"io.containers.estargz.uncompressed-size": "7"}, nil
		}
}

func (o ownType) NeedsComputeDiffBySelf(compression.Config) bool { return true }

// TestExportWithAnEmbeddersType: a kind of compression that is none of the library's makes blobs like any other, and its errors are passed on.
func TestExportWithAnEmbeddersType(t *testing.T) { // spec RMT-1, BLOB-9, fault 43
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := finalized(t, env, nil, fileIn(t, "f", "x"))
		broken := errors.Wrap(errdefs.ErrResourceExhausted, "no more of it")
		_, err := ref.GetRemotes(ctx, true, as(ownType{codec.Gzip, broken}), false, nil)
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
		var layer *cache.LayerError
		require.ErrorAs(t, err, &layer)
		require.Equal(t, [2]string{ref.ID(), "packing"}, [2]string{layer.Record, layer.Action})
		require.Empty(t, blobNames(t, env))
		requireNoBlobs(t, ref, ref.ID())

		got := export(t, ref, as(ownType{Type: codec.Gzip}))
		require.Equal(t, "7", got.Descriptors[0].Annotations["io.containers.estargz.uncompressed-size"], "what its finalizer found out")
		readBlob(t, got, got.Descriptors[0])
		other := byBlobHere(t, env, got.Descriptors[0], nil)
		require.Equal(t, ref.ID(), other.ID())
		release(t, ref, other)
	})
}

// byBlobHere gets a layer whose blob is local.
func byBlobHere(t testing.TB, env *testutil.Env, desc ocispecs.Descriptor, parent cache.ImmutableRef) cache.ImmutableRef {
	t.Helper()
	ref, err := env.Manager.GetByBlob(ctx, desc, parent)
	require.NoError(t, err)
	return ref
}

// TestExportOfWhatNobodyHas: blobs that are neither local nor have a handler are all named, at once.
func TestExportOfWhatNobodyHas(t *testing.T) { // spec RMT-3, API-3
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 3)
		top := refs[2]
		require.NoError(t, top.Extract(ctx, nil))
		plain := get(t, env, top.ID())
		for _, i := range []int{0, 2} {
			loseBlob(t, env, descs[i].Digest)
		}
		_, err := plain.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, err, &missing)
		require.Equal(t, cache.NeedsRemoteProviderError{descs[0].Digest, descs[2].Digest}, missing)
		_, err = plain.GetRemotes(ctx, true, forced(codec.Zstd), false, nil)
		require.ErrorAs(t, err, &missing)
		got := export(t, top, remote.RefConfig{}) // whose handlers reach them
		for i, desc := range got.Descriptors {
			require.Equal(t, descs[i].Digest, desc.Digest)
			readBlob(t, got, desc)
		}
		release(t, plain)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
