package cache_test

import (
	"context"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// pruned waits for the event of a prune, and returns it with the events of what it removed.
func pruned(t *testing.T, r *recorder) (run cache.Event, gone []cache.Event) {
	t.Helper()
	var seen []cache.Event
	require.Eventually(t, func() bool {
		seen = append(seen, r.take()...)
		return len(seen) > 0 && seen[len(seen)-1].Kind == cache.EventPrune
	}, 30*time.Second, time.Millisecond)
	for _, ev := range seen {
		if ev.Kind == cache.EventRemove {
			gone = append(gone, ev)
		}
	}
	return seen[len(seen)-1], gone
}

// Fault 16, fault 24, quirk Q72: a prune that is interrupted is told of when the batch that it had begun is finished, with all that went, how long it took, and why
// it ended; a dry run with what would go, and one that fails before anything with nothing.
func TestPruneEvents(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	sizes := map[string]int64{}
	for _, text := range []string{"a", "bb", "ccc"} {
		imm := finalized(t, env, nil, fileIn(t, "f", text))
		sizes[imm.ID()] = 0
		release(t, imm)
	}
	var total int64
	for _, info := range usageByID(t, env) {
		sizes[info.ID] = info.Size
		total += info.Size
	}
	require.NotZero(t, total)
	r.take()

	require.NoError(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{DryRun: true}))
	run, gone := pruned(t, r)
	require.Empty(t, gone)
	require.Equal(t, cache.Event{Kind: cache.EventPrune, Reason: cache.ReasonDryRun, Records: 3, Size: total}, run)

	failed := false // once: the marks cannot be set, and what was set of them is taken back
	env.Faults.Inject(fault.Match{Op: fault.OpDBUpdate, When: fault.Before}, func(context.Context, fault.Point) error {
		if failed {
			return nil
		}
		failed = true
		return errBackend
	})
	require.ErrorIs(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{}), errBackend)
	env.Faults.Reset()
	run, gone = pruned(t, r)
	require.Empty(t, gone)
	require.ErrorIs(t, run.Err, errBackend)
	require.Zero(t, run.Records)

	block := env.Faults.BlockOp(fault.OpLeaseDelete)
	short, leave := context.WithCancelCause(ctx)
	done := make(chan error, 1)
	go func() { done <- env.Manager.Prune(short, nil, usage.PruneInfo{}) }()
	<-block.Entered()
	why := errors.New("the client left")
	leave(why)
	require.ErrorIs(t, <-done, why)
	require.Empty(t, r.take(), "the batch goes on")
	env.Clock.Advance(time.Minute)
	block.Release()
	run, gone = pruned(t, r)
	require.ErrorIs(t, run.Err, why)
	require.Equal(t, [2]int64{3, total}, [2]int64{int64(run.Records), run.Size})
	require.Equal(t, time.Minute, run.Duration)
	require.Len(t, gone, 3)
	for _, ev := range gone {
		require.Equal(t, cache.Event{
			Kind: cache.EventRemove, ID: ev.ID, Reason: cache.ReasonPruned, Cause: cache.RuleIdle, Size: sizes[ev.ID], Duration: time.Minute,
		}, ev)
	}
	requireUsage(t, env, 0, 0)
}
