package cache_test

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// TestTreeOfAMergeIsMarked from before its first byte to the first flush after its last, with all records that have it; what the machine
// lost is made again.
func TestTreeOfAMergeIsMarked(t *testing.T) { // design section 5, spec EXT-4, adr 0030
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		in := single(t, env, 2)
		first, twin := mergeOf(t, env, in), mergeOf(t, env, in)
		env.Clock.Advance(time.Hour)
		require.Empty(t, marked(t, env), "a recipe has nothing to lose")

		both := []string{first.ID(), twin.ID()}
		env.Faults.Inject(fault.Match{Op: fault.OpSnapshotPrepare, When: fault.Before, Times: 1}, func(context.Context, fault.Point) error {
			require.ElementsMatch(t, both, marked(t, env))
			env.Clock.Advance(time.Hour)
			require.ElementsMatch(t, both, marked(t, env), "a flush that begins meanwhile does not count")
			born := mergeOf(t, env, in)
			both = append(both, born.ID())
			require.ElementsMatch(t, both, marked(t, env), "who comes to share it is marked, too")
			return born.Release(ctx)
		})
		require.NoError(t, first.Extract(ctx, nil))
		env.Faults.Reset()
		require.ElementsMatch(t, both, marked(t, env))
		require.NoError(t, twin.Extract(ctx, nil))
		child := finalized(t, env, twin, fileIn(t, "on", "on"))
		tree := snapshotOf(t, env, first.ID())
		childID := child.ID()

		env.Reboot()
		env.Open()
		_, err := env.Manager.Get(ctx, childID, nil)
		require.True(t, cache.IsNotFound(err), "what lies on it is lost with it: %v", err)
		again := snapshotOf(t, env, first.ID())
		require.NotEqual(t, tree, again)
		require.Equal(t, again, snapshotOf(t, env, twin.ID()))
		ref := get(t, env, twin.ID())
		requireFiles(t, ref, map[string]string{"f0": "f0", "f1": "f1"})
		env.Clock.Advance(time.Hour)
		require.Empty(t, marked(t, env))
		env.Faults.Reset()
		require.NoError(t, ref.Extract(ctx, nil))
		release(t, ref)
		env.Reboot()
		env.Open()
		require.Equal(t, again, snapshotOf(t, env, twin.ID()), "it is on disk")
	})
}

// TestFinalizeOnAMergeFlushesBoth: with Sync, what is final does not depend on something that may get lost.
func TestFinalizeOnAMergeFlushesBoth(t *testing.T) { // design section 5, adr 0030
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Sync = true }))
	in := single(t, env, 2)
	merged := mergeOf(t, env, in)
	require.NoError(t, merged.Extract(ctx, nil))
	require.Equal(t, []string{merged.ID()}, marked(t, env))
	child := testutil.MakeLayer(t, env, merged, fileIn(t, "on", "on"))
	env.Faults.FailOp(fault.OpSyncFS, errdefs.ErrUnavailable)
	require.ErrorIs(t, child.Finalize(ctx), errdefs.ErrUnavailable)
	env.Faults.Reset()
	require.Contains(t, marked(t, env), merged.ID())
	require.NoError(t, child.Finalize(ctx))
	require.Empty(t, marked(t, env))
	releaseAll(t, in, refs(merged, child))
}
