package cache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// totalOf adds up totals.
func totalOf(totals []cache.Total) (bytes int64, unmeasured int) {
	for _, t := range totals {
		bytes += t.Bytes
		unmeasured += t.Unmeasured
	}
	return bytes, unmeasured
}

// Quirk Q24, spec SIZE-6: a tree that two records have is counted once, from the first DiskUsage on; and if the one where it is counted is to be
// measured anew, at the other.
func TestTotalsOfASharedTree(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	reg := newRegistry()
	first := byBlob(t, env, reg, reg.layer(t, "gzip", tree.File("f", "the same")), nil, reg.allHandlers())
	env.Clock.Advance(time.Second) // so that the tree is counted at the first
	second := byBlob(t, env, reg, reg.layer(t, "zstd", tree.File("f", "the same")), nil, reg.allHandlers())
	require.Equal(t, snapshotOf(t, env, first.ID()), snapshotOf(t, env, second.ID()))
	require.NotEqual(t, first.ID(), second.ID())
	require.NoError(t, first.Extract(ctx, nil))
	_, unmeasured := totalOf(env.Manager.Totals())
	require.Equal(t, 2, unmeasured)
	var want int64
	for _, info := range usageByID(t, env) {
		want += info.Size
	}
	bytes, unmeasured := totalOf(env.Manager.Totals())
	require.Zero(t, unmeasured)
	require.Equal(t, want, bytes, "what DiskUsage reports")

	tree, err := env.Opt.Snapshotter.Usage(ctx, snapshotOf(t, env, first.ID()))
	require.NoError(t, err)
	_, err = first.GetRemotes(ctx, true, forced(codec.Uncompressed), false, nil)
	require.NoError(t, err)
	bytes, unmeasured = totalOf(env.Manager.Totals())
	require.Equal(t, 1, unmeasured)
	require.GreaterOrEqual(t, bytes, tree.Size)
	_, err = env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
	require.NoError(t, err)
	release(t, first, second)
}
