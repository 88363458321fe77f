package cache_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// TestCallsOfGetRemotes: an export of layers that have their blobs writes nothing, and asks the content store for each once; under a lease it takes one
// transaction, however many layers there are. The chain IDs of a chain are stored in one.
func TestCallsOfGetRemotes(t *testing.T) { // spec BLOB-1, BLOB-10, CHAIN-1, RMT-3, LOCK-2
	const layers = 5
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		var chain cache.RefList
		var top cache.ImmutableRef
		for i := range layers {
			top = finalized(t, env, top, fileIn(t, "f", strconv.Itoa(i)), cache.CachePolicyRetain)
			chain = append(chain, top)
		}
		env.Faults.Reset()
		export(t, top, as(codec.Gzip))
		rows, _ := writes(env)
		require.LessOrEqual(t, rows, layers+1, "a blob each, or fewer that are stored together, and the chain IDs of all: %s", env.Faults.Trace())
		require.Equal(t, layers, env.Faults.Count(fault.OpWriterCommit))
		require.Equal(t, layers, env.Faults.Count(fault.OpSnapshotView), "the view of a layer serves the one on it, too")
		require.Zero(t, env.Faults.Count(fault.OpGarbageCollect))

		env.Faults.Reset()
		export(t, top, as(codec.Gzip))
		require.Equal(t, map[string]int{fault.OpContentInfo: layers}, env.Faults.Counts(), "nothing is missing")

		leased, id := underLease(t, env)
		env.Faults.Reset()
		_, err := top.GetRemotes(leased, true, as(codec.Gzip), false, nil)
		require.NoError(t, err)
		require.Zero(t, env.Faults.Count(fault.OpDBUpdate))
		if env.Opt.Transactions != nil {
			require.Equal(t, 1, env.Faults.Count(fault.OpTransaction))
		}
		require.Equal(t, layers, env.Faults.Count(fault.OpLeaseAddResource))
		endLease(t, env, id)
		require.NoError(t, chain.Release(ctx))
	})
}
