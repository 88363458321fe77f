package cache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// TestVariantsGoWithTheirMaker: a compression that one owner of a blob made goes with it unless another one has asked for it, and the link that
// is left on the blob is no finding.
func TestVariantsGoWithTheirMaker(t *testing.T) { // spec VAR-2, VAR-3, scenario S-19
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		owner, base := finalized(t, env, nil, fileIn(t, "f", "text")), finalized(t, env, nil, fileIn(t, "base", "x"))
		export(t, base, as(codec.Gzip))
		gz := export(t, owner, as(codec.Gzip)).Descriptors[0]
		heir, err := env.Manager.GetByBlob(ctx, gz, base)
		require.NoError(t, err)
		zstd := export(t, owner, forced(codec.Zstd)).Descriptors[0]
		id := owner.ID()
		release(t, owner)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + id}}), 1)
		require.NoError(t, env.GC(ctx))
		findings, err := env.Manager.(cache.Checker).Check(ctx) //nolint:errcheck // it panics, which is a failure, too
		require.NoError(t, err)
		require.Empty(t, findings)
		require.NotContains(t, blobNames(t, env), zstd.Digest.String(), "only its maker had a lease on it")
		require.Equal(t, zstd.Digest, export(t, heir, forced(codec.Zstd)).Descriptors[1].Digest, "it is made again")
		release(t, heir, base)
	})
}
