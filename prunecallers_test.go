package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// This file is about those whom Prune calls: the consumer of its channel, the checker of external references, the scorer.

// stuckPrune has a prune in which the consumer read one record and stopped. What it will return comes from done.
func stuckPrune(short context.Context, t *testing.T, env *testutil.Env) (first usage.Info, done <-chan error) {
	t.Helper()
	for range 3 {
		release(t, finalized(t, env, nil, nil))
	}
	ch, out := make(chan usage.Info), make(chan error, 1)
	go func() { out <- env.Manager.Prune(short, ch, usage.PruneInfo{}) }()
	return <-ch, out
}

// Fault 16, quirk Q72, spec PRN-1, PRN-16, PRN-17, LOCK-2, scenario S-29: a consumer that stopped reading holds up nobody, except
// another Prune as long as that one's context lasts; the end of the context ends Prune, with its cause.
func TestStuckConsumer(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		kept := finalized(t, env, nil, fileIn(t, "f", "text"))
		idle := testutil.MakeLayer(t, env, kept, nil, cache.CachePolicyRetain)
		short, cancel := context.WithCancelCause(ctx)
		first, done := stuckPrune(short, t, env)

		_, err := env.Manager.Get(ctx, first.ID, nil)
		require.True(t, cache.IsNotFound(err), "%v", err)
		release(t, get(t, env, kept.ID()))
		child := finalized(t, env, kept, fileIn(t, "g", "text"))
		requireFile(t, child, "g", "text")
		merged, err := env.Manager.Merge(ctx, refs(child, kept), nil)
		require.NoError(t, err)
		require.NoError(t, merged.Extract(ctx, nil))
		require.NoError(t, child.SetDescription("made meanwhile"))
		release(t, merged, child, idle)
		var walks sync.WaitGroup
		for range 2 {
			walks.Go(func() {
				if _, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Policies: asIf(usage.PruneInfo{})}); err != nil {
					t.Error(err)
				}
			})
		}
		walks.Wait()
		_, err = env.Manager.Check(ctx)
		require.NoError(t, err)
		second, stop := context.WithCancelCause(ctx)
		waiting := make(chan error, 1)
		go func() { waiting <- env.Manager.Prune(second, nil, usage.PruneInfo{}) }()
		enough := errors.New("one at a time")
		stop(enough)
		require.ErrorIs(t, <-waiting, enough)

		why := errors.New("the client left")
		cancel(why)
		require.ErrorIs(t, <-done, why)
		require.Contains(t, usageByID(t, env), child.ID(), "it is younger than the plan")
		release(t, kept)
		require.NotEmpty(t, prune(t, env, pruneAll))
		requireUsage(t, env, 0, 0)
	})
}

// Fault 16, spec MGR-42, LOCK-3: nor does it hold up Close, which ends Prune.
func TestCloseEndsAPruneWhoseConsumerIsStuck(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	_, done := stuckPrune(ctx, t, env)
	waiting := make(chan error, 1)
	go func() { waiting <- env.Manager.Prune(ctx, nil, usage.PruneInfo{}) }()
	require.NoError(t, env.Manager.Close())
	require.ErrorIs(t, <-done, cache.ErrClosed)
	require.ErrorIs(t, <-waiting, cache.ErrClosed, "the one that waits for it, or comes too late")
	require.NoError(t, env.Close())
	env.Open()
	require.Empty(t, env.Problems(ctx))
}

// Scenario S-29, fault 7, fault 16, spec PRN-16, quirk Q72: a consumer that uses the manager for each record that it reads does not
// deadlock; what it reads of is gone for everybody. A Prune of its own waits for this one.
func TestConsumerCallsTheManager(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		held := finalized(t, env, nil, nil)
		for range 3 {
			release(t, finalized(t, env, held, nil))
		}
		ch, done := make(chan usage.Info), make(chan error, 1)
		go func() { done <- env.Manager.Prune(ctx, ch, usage.PruneInfo{}) }()
		ended, end := context.WithCancelCause(ctx)
		enough := errors.New("enough")
		end(enough)
		for range 3 {
			u := <-ch
			_, err := env.Manager.Get(ctx, u.ID, nil)
			require.True(t, cache.IsNotFound(err), "%v", err)
			require.NotContains(t, usageByID(t, env), u.ID)
			release(t, get(t, env, held.ID()))
			made := newMutable(t, env, held)
			release(t, commit(t, made))
			_, err = env.Manager.Check(ctx)
			require.NoError(t, err)
			require.ErrorIs(t, env.Manager.Prune(ended, ch, usage.PruneInfo{}), enough)
		}
		require.NoError(t, <-done)
		release(t, held)
		require.Len(t, prune(t, env, pruneAll), 1)
	})
}

// Spec LOCK-2, PRN-3, quirk Q12: checker, scorer, and the function that makes the checker, run without locks: they use the manager, and the very
// records that they are asked about. Those that they take every time are not deleted, and Prune comes to an end.
func TestCheckerAndScorerCallTheManager(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken %t", taken), func(t *testing.T) {
			var env *testutil.Env
			on, calls := false, 0 // the callbacks call for others of their kind
			use := func(id string) {
				if !on {
					return
				}
				on = false
				defer func() { on = true }()
				calls++
				_ = usageByID(t, env)
				switch {
				case !taken:
					release(t, finalized(t, env, nil, nil))
				case id != "":
					release(t, get(t, env, id, cache.NoUpdateLastUsed))
				}
				ended, end := context.WithCancel(ctx)
				end()
				require.ErrorIs(t, env.Manager.Prune(ended, nil, usage.PruneInfo{}), context.Canceled)
			}
			env = testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
				o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
					use("")
					return checkerFunc(func(id string, _ []digest.Digest) bool { use(id); return false }), nil
				}
				o.PruneScorer = scorer(func(u usage.Info) float64 { use(u.ID); return 0 })
			}))
			for range 3 {
				sized(t, env, 10)
			}
			on = true
			for _, policy := range []usage.PruneInfo{{MaxUsedSpace: 15}, {Filter: []string{"immutable"}}} {
				calls = 0
				got := prune(t, env, policy)
				require.GreaterOrEqual(t, calls, 1)
				require.Equal(t, taken, len(got) == 0, "%v", got)
			}
			on = false
		})
	}
}
