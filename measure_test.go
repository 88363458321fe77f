package cache_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// Spec SIZE-3, DU-5: a size is measured once for all who ask while it is being measured, and one of them who leaves takes nothing from the others.
func TestSizeIsMeasuredOnceForAll(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	layer := finalized(t, env, nil, nil)
	require.NoError(t, env.Double.SetUsage(ctx, layer.ID(), snapshots.Usage{Size: 1234}))
	release(t, layer)
	block := env.Faults.Block(fault.Match{Op: fault.OpSnapshotUsage, When: fault.Before})
	short, leave := context.WithCancel(ctx)
	const askers = 5
	var wg sync.WaitGroup
	left := make(chan error, 1)
	go func() {
		_, err := env.Manager.DiskUsage(short, usage.DiskUsageInfo{})
		left <- err
	}()
	<-block.Entered()
	for range askers {
		wg.Go(func() {
			infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
			if err != nil || len(infos) != 1 || infos[0].Size != 1234 {
				t.Errorf("%v, %v", infos, err)
			}
		})
	}
	require.Eventually(t, func() bool { return cache.Measuring(env.Manager) == 1+askers }, time.Minute, time.Millisecond)
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	block.Release()
	wg.Wait()
	require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotUsage))
	require.EqualValues(t, 1234, usageByID(t, env)[layer.ID()].Size)
	require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotUsage), "it is known")
}

// Spec SIZE-2, DU-5, DU-8: a size that cannot be measured is an error, which comes with all that could be, unless the record went meanwhile; then
// it is 0. Neither is remembered.
func TestSizeThatCannotBeMeasured(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	idle := sized(t, env, 10)
	require.NoError(t, env.Double.SetUsage(ctx, idle.ID(), snapshots.Usage{Size: 10}))
	going := testutil.MakeLayer(t, env, nil, nil) // goes with its ref
	md, ok := going.GetEqualMutable()
	require.True(t, ok)
	block := env.Faults.Block(fault.Match{Op: fault.OpSnapshotUsage, Key: md.ID(), When: fault.Before})
	broken := env.Faults.FailOp(fault.OpSnapshotUsage, errdefs.ErrUnavailable)

	infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Filter: []string{"id==" + idle.ID()}})
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.Len(t, infos, 1)
	require.Zero(t, infos[0].Size)

	type result struct {
		infos []*usage.Info
		err   error
	}
	done := make(chan result, 1)
	go func() {
		infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Filter: []string{"id==" + going.ID()}})
		done <- result{infos, err}
	}()
	<-block.Entered()
	release(t, going)
	block.Release()
	got := <-done
	require.NoError(t, got.err)
	require.Len(t, got.infos, 1)
	require.Zero(t, got.infos[0].Size)

	broken.Remove()
	require.EqualValues(t, 10, usageByID(t, env)[idle.ID()].Size)
	requireUsage(t, env, 0, 1)
}

// Quirk Q29, spec DU-1, DU-3: between Commit and the end of Finalize a record is shown once, under a name that Get takes, whatever the backend is
// doing; nor is one that is being deleted.
func TestDiskUsageDuringFinalizeAndRemoval(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := finalized(t, env, nil, nil)
		for _, keep := range []bool{true, false} {
			pair := testutil.MakeLayer(t, env, base, nil)
			asked := 0
			shown := func(want int) func(context.Context, testutil.Point) {
				return func(ctx context.Context, p testutil.Point) {
					if p.Op == fault.OpSnapshotUsage || p.Op == fault.OpDBUpdateFn || p.Op == fault.OpTransactionFn {
						return
					}
					asked++
					infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
					if err != nil || len(infos) != want {
						t.Errorf("%s: %v, %v", p, infos, err)
					}
				}
			}
			var seen *fault.Injection
			if keep {
				seen = env.Faults.Inject(fault.Match{}, fault.Run(shown(2)))
				require.NoError(t, pair.Finalize(ctx))
			} else {
				seen = env.Faults.Inject(fault.Match{}, fault.Run(shown(1)))
				release(t, pair)
			}
			seen.Remove()
			require.NotZero(t, asked)
			if keep {
				release(t, pair)
				require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
			}
		}
		release(t, base)
	})
}
