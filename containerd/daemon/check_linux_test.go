package daemon

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// TestCheckMeanwhile: what the parts have under way is no finding, and a Repair of it would harm the work: the lease of a merge that the
// daemon makes, and that of a garbage collection (spec LEASE-4; scenario S-13).
func TestCheckMeanwhile(t *testing.T) {
	d := Start(t)
	ctx := t.Context()
	var calls Calls
	opts := containerd.Options{Snapshotter: "overlayfs", Reach: containerd.ReachNone}
	c, err := containerd.Open(ctx, d.Client(calls.Opt()), t.TempDir(), opts)
	require.NoError(t, err)
	var found []cache.Finding
	var checks atomic.Int32
	checkAt := func(at string) {
		var busy atomic.Bool
		calls.hook(func(ctx context.Context, method string) error {
			if method != at || !busy.CompareAndSwap(false, true) {
				return nil
			}
			defer busy.Store(false)
			checks.Add(1)
			now, err := c.Check(context.WithoutCancel(ctx))
			found = append(found, now...)
			return err
		}, nil)
	}
	one, two := writeLayer(t, c, nil, "one", "1"), writeLayer(t, c, nil, "two", "2")
	merged, err := c.Merge(ctx, []cache.ImmutableRef{one, two}, nil)
	require.NoError(t, err)
	checkAt("Diff/Apply")
	require.NoError(t, merged.Extract(ctx, nil))
	checkAt("Leases/Delete")
	_, err = c.Parts.GarbageCollect(ctx)
	require.NoError(t, err)
	calls.hook(nil, nil)
	require.EqualValues(t, 3, checks.Load())
	require.Empty(t, found)
	requireTree(t, merged, tree.File("one", "1"), tree.File("two", "2"))
	for _, ref := range []cache.ImmutableRef{one, two, merged} {
		require.NoError(t, ref.Release(ctx))
	}
	require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
	require.NoError(t, c.Close())
	require.Empty(t, leasesIn(t, d, containerd.DefaultNamespace))
}
