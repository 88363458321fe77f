package cache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
)

// writes counts what goes to disk: transactions on the rows, and those of the backend or, where it has none to share, its writing calls.
func writes(env *testutil.Env) (rows, backend int) {
	f := env.Faults
	backend = f.Count(fault.OpTransaction)
	if env.Opt.Transactions == nil {
		backend = f.Count(fault.OpLeaseCreate)
	}
	return f.Count(fault.OpDBUpdate), backend
}

// TestCallsOfGetByBlob: a new record takes one transaction on the rows and one on the leases; a known one takes none, save to add an image ref.
func TestCallsOfGetByBlob(t *testing.T) { // spec META-1, META-12, MGR-23, MGR-27, LOCK-2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		_, refs := chainOf(t, env, r, 20)
		top := refs[19]
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		call := func(opts ...cache.RefOption) (rows, backend int) {
			env.Faults.Reset()
			ref := byBlob(t, env, r, desc, top, opts...)
			rows, backend = writes(env)
			require.Zero(t, env.Faults.Count("snapshots.*"), env.Faults.Trace())
			require.Zero(t, env.Faults.Count("content.*"), "who has handlers is not looked for: %s", env.Faults.Trace())
			release(t, ref)
			return rows, backend
		}
		rows, backend := call(cache.WithImageRef("a"))
		require.Equal(t, [2]int{1, 1}, [2]int{rows, backend}, "a miss")
		rows, backend = call()
		require.Equal(t, [2]int{0, 0}, [2]int{rows, backend}, "a hit")
		rows, backend = call(cache.WithImageRef("a"))
		require.Equal(t, [2]int{0, 0}, [2]int{rows, backend}, "a hit that adds nothing")
		rows, backend = call(cache.WithImageRef("b"))
		require.Equal(t, [2]int{1, 0}, [2]int{rows, backend}, "a hit that adds an image ref")
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestCallsOfGetOnALongChain: the top of a hundred extracted layers is opened without a look at any of them.
func TestCallsOfGetOnALongChain(t *testing.T) { // spec REC-5, MGR-8, LOCK-2
	for name, opts := range map[string][]testutil.Option{"doubles": {testutil.Doubles()}, "joined": {testutil.JoinedDoubles()}} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, opts...)
			r := newRegistry()
			_, refs := chainOf(t, env, r, 100)
			top := refs[99]
			require.NoError(t, top.Extract(ctx, nil))
			for _, ref := range refs {
				release(t, ref)
			}
			env.Reopen()
			lazy := byBlob(t, env, r, r.layer(t, "gzip", tree.File("elsewhere", "x")), nil) // so that there is something lazy at all
			env.Faults.Reset()
			for range 3 {
				ref := get(t, env, top.ID())
				release(t, ref)
			}
			require.Zero(t, env.Faults.Len(), env.Faults.Trace())
			release(t, lazy)
		})
	}
}

// TestCallsOfExtract: unpacking a layer takes the transactions that its lease, its commit and its row need, however long the chain is.
func TestCallsOfExtract(t *testing.T) { // spec EXT-7, design 5
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		_, refs := chainOf(t, env, r, 10)
		require.NoError(t, refs[8].Extract(ctx, nil))
		env.Faults.Reset()
		require.NoError(t, refs[9].Extract(ctx, nil))
		require.Equal(t, 1, env.Faults.Count(fault.OpApply))
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotPrepare))
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotCommit))
		require.Equal(t, 1, env.Faults.Count(fault.OpDBUpdate), "the row: %s", env.Faults.Trace())
		require.Zero(t, env.Faults.Count(fault.OpGarbageCollect))
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
