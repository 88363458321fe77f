package cache_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
)

// TestBlobsAreCommittedWithLabels: a blob that the cache transfers gets its labels in the transaction that makes it known, and not
// in one more.
func TestBlobsAreCommittedWithLabels(t *testing.T) { // spec VAR-1, PULL-2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		ref := byBlob(t, env, r, desc, nil)
		env.Faults.Reset()
		require.NoError(t, ref.Extract(ctx, nil))
		require.Equal(t, 1, env.Faults.Count(fault.OpWriterCommit))
		require.Zero(t, env.Faults.Count(fault.OpContentUpdate))
		labels := blobLabels(t, env, desc.Digest)
		require.Equal(t, desc.MediaType, labels["buildkit.io/blob/mediatype"])
		require.Equal(t, desc.Digest.String(), labels["containerd.io/gc.ref.content.blob-"+desc.Digest.String()])
		release(t, ref)
	})
}

// TestBlobsOfAHookGetLabels: what an embedder's own transfer commits without labels is labelled afterwards, and if that fails, so
// does the pull.
func TestBlobsOfAHookGetLabels(t *testing.T) { // spec VAR-1, PULL-2
	hook := func(ctx context.Context, cs content.Store, p content.Provider, desc ocispecs.Descriptor, _ string) error {
		ra, err := p.ReaderAt(ctx, desc)
		if err != nil {
			return err
		}
		defer ra.Close()
		return content.WriteBlob(ctx, cs, desc.Digest.String(), content.NewReader(ra), desc)
	}
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Hooks.FetchBlob = hook }))
	r := newRegistry()
	good, bad := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "gzip", tree.File("g", "x"))
	a, b := byBlob(t, env, r, good, nil), byBlob(t, env, r, bad, nil)
	env.Faults.Reset()
	require.NoError(t, a.Extract(ctx, nil))
	require.Equal(t, 1, env.Faults.Count(fault.OpContentUpdate))
	require.Equal(t, good.MediaType, blobLabels(t, env, good.Digest)["buildkit.io/blob/mediatype"])

	env.Faults.FailOp(fault.OpContentUpdate, errdefs.ErrPermissionDenied)
	err := b.Extract(ctx, nil)
	require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
	require.ErrorContains(t, err, b.ID())
	env.Faults.Reset()
	require.NoError(t, b.Extract(ctx, nil))
	release(t, a, b)
}
