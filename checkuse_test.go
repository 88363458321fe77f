package cache_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// waitingContext tells when somebody waits for its end, be it beside something else.
type waitingContext struct {
	context.Context
	once    sync.Once
	waiting chan struct{}
}

func newWaitingContext(ctx context.Context) *waitingContext {
	return &waitingContext{Context: ctx, waiting: make(chan struct{})}
}

func (c *waitingContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waiting) })
	return c.Context.Done()
}

// checked is what a Check beside an operation came to.
type checked struct {
	found []cache.Finding
	err   error
}

// startCheck runs Check in a goroutine, and returns when it is done or has to wait for the operation. If
// the operation holds the backend's lock, it returns at once.
func startCheck(env *testutil.Env, wait bool) <-chan checked {
	result := make(chan checked, 1)
	wctx := newWaitingContext(fault.Quiet(ctx))
	done := make(chan struct{})
	m := env.Manager
	go func() {
		defer close(done)
		found, err := m.Check(wctx)
		result <- checked{found, err}
	}()
	if wait {
		select {
		case <-done:
		case <-wctx.waiting:
		}
	}
	return result
}

// Spec LOCK-2, META-1, MGR-3, REF-11: nothing is found at any step of any operation on a sound cache: what is under way is no
// finding.
func TestCheckFindsNothingAtEveryPoint(t *testing.T) {
	results := map[*testutil.Env]<-chan checked{}
	eachPoint(t, "check at point", func(env *testutil.Env, n int) context.Context {
		env.Faults.RunAt(n, func(_ context.Context, p testutil.Point) {
			inside := inTransaction(env.Faults.Trace()) || p.Op == fault.OpDBUpdateFn || p.Op == fault.OpTransactionFn
			results[env] = startCheck(env, !inside)
		})
		return ctx
	}, func(t *testing.T, s *scene, n int, err error) {
		require.NoError(t, err, "point %d", n)
		if results[s.env] == nil && s.op.concurrent {
			return // its calls come in another order each time, and sometimes there are fewer
		}
		require.NotNil(t, results[s.env], "point %d", n)
		got := <-results[s.env]
		delete(results, s.env)
		require.NoError(t, got.err, "point %d", n)
		for _, f := range got.found { // a record that is to be repaired may not be yet
			if f.Record == s.lost && f.Kind == cache.FindingSnapshotMissing {
				continue
			}
			require.Equal(t, s.names["unleased"].Imm, f.Record, "point %d: %s", n, f)
			require.Equal(t, cache.FindingLeaseMissing, f.Kind)
		}
	})
}

// Spec MGR-3, REF-11, REF-9, REF-15: a Check that begins in the midst of an operation that hangs waits for its record,
// and finds nothing; one whose context ends leaves.
func TestCheckWaitsForTheRecordInQuestion(t *testing.T) {
	for op, do := range map[string]func(t *testing.T, env *testutil.Env, base cache.ImmutableRef) func() error{
		fault.OpSnapshotPrepare: func(t *testing.T, env *testutil.Env, base cache.ImmutableRef) func() error {
			return func() error {
				mut, err := env.Manager.New(ctx, base, nil)
				if err != nil {
					return err
				}
				return mut.Release(ctx)
			}
		},
		fault.OpSnapshotCommit: func(t *testing.T, env *testutil.Env, base cache.ImmutableRef) func() error {
			imm := testutil.MakeLayer(t, env, base, nil)
			return func() error {
				if err := imm.Finalize(ctx); err != nil {
					return err
				}
				return imm.Release(ctx)
			}
		},
		fault.OpLeaseDelete: func(t *testing.T, env *testutil.Env, base cache.ImmutableRef) func() error {
			imm := testutil.MakeLayer(t, env, base, nil)
			return func() error {
				if err := imm.Finalize(ctx); err != nil {
					return err
				}
				return imm.Release(ctx)
			}
		},
	} {
		t.Run(op, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles(), testutil.Separate())
			base := finalizedLayer(t, env, nil)
			ref := get(t, env, base.ID())
			act := do(t, env, ref)
			block := env.Faults.BlockOp(op)
			acted := make(chan error, 1)
			go func() { acted <- act() }()
			<-block.Entered()

			short, cancel := context.WithCancel(fault.Quiet(ctx))
			wctx := newWaitingContext(short)
			left := make(chan error, 1)
			go func() {
				_, err := env.Manager.Check(wctx)
				left <- err
			}()
			<-wctx.waiting
			cancel()
			require.ErrorIs(t, <-left, context.Canceled)

			result := startCheck(env, true)
			require.Empty(t, result, "it waits")
			block.Release()
			require.NoError(t, <-acted)
			got := <-result
			require.NoError(t, got.err)
			require.Empty(t, got.found)
			release(t, ref)
		})
	}
}

// Spec LOCK-2, REF-9, PRN-14: a deletion by a prune, which holds no record's slot, is no finding either, and Check does not
// wait for it; nor does one that is retried.
func TestCheckDuringAPrune(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	finalizedLayer(t, env, nil)
	for _, retried := range []bool{false, true} {
		finalizedLayer(t, env, nil)
		if retried {
			env.Faults.FailOp(fault.OpLeaseDelete, errBackend)
			require.ErrorIs(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{}), errBackend)
			require.NoError(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{}), "it is retried, in vain")
			env.Faults.Reset()
			require.NotEmpty(t, check(t, env))
		}
		block := env.Faults.BlockOp(fault.OpLeaseDelete)
		pruned := make(chan error, 1)
		go func() { pruned <- env.Manager.Prune(ctx, nil, usage.PruneInfo{}) }()
		<-block.Entered()
		found, err := env.Manager.Check(fault.Quiet(ctx))
		require.NoError(t, err)
		require.Empty(t, found)
		block.Release()
		require.NoError(t, <-pruned)
		env.Faults.Reset()
		require.Empty(t, check(t, env))
	}
}

// Fault 24, spec LOCK-1, LOCK-2, quirk Q12: neither Check nor Repair calls a backend under the graph's mutex, and both ask for
// lists only once.
func TestCheckAsksTheBackendInBulk(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := finalizedLayer(t, env, nil)
		for range 5 {
			sealedPair(t, env)
			finalizedLayer(t, env, base)
		}
		m := env.Manager
		env.Faults.Reset()
		env.Faults.OnPoint(func(p testutil.Point) { panicIfLocked(m, p) })
		require.Empty(t, check(t, env))
		require.Equal(t, 1, env.Faults.Count(fault.OpLeaseList))
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotWalk))
		require.Equal(t, 11, env.Faults.Count(fault.OpLeaseListResources))
		require.Equal(t, 2, env.Faults.Count(fault.OpDBView), "the rows and the index")
		require.Zero(t, env.Faults.Count(fault.OpSnapshotStat)+env.Faults.Count(fault.OpDBUpdate))

		dropLease(t, env, base.ID())
		done, err := env.Manager.Repair(ctx, check(t, env)...)
		require.NoError(t, err)
		require.Len(t, done, 1)
		env.Faults.Reset()
	})
}

// Fault 27, LOCK-1, LOCK-4: Check beside all verbs, under the race detector, finds nothing, ever; repairing the nothing it
// found is in nobody's way.
func TestCheckBesideAllVerbs(t *testing.T) {
	for _, name := range []string{"doubles", "joined", "separate", "native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, append([]testutil.Option{testutil.Bare()}, backends[name]...)...)
			base := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "base"))
			rounds := stressRounds(t, 60)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			st := newStress(t, env, base)
			var users, checkers sync.WaitGroup
			var over atomic.Bool
			var checks atomic.Int32
			for w := range 4 {
				users.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(w)))
					for range rounds {
						if err := st.step(rng); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for range 2 {
				checkers.Go(func() {
					for !over.Load() {
						found, err := env.Manager.Check(ctx)
						if err != nil || len(found) > 0 {
							t.Errorf("found %v, error %v", found, err)
							return
						}
						checks.Add(1)
					}
				})
			}
			watchdog(t, &users, &st.steps)
			over.Store(true)
			watchdog(t, &checkers, &st.steps)
			require.NotZero(t, checks.Load())
			t.Logf("%d checks", checks.Load())
			release(t, base)
			prune(t, env, usage.PruneInfo{All: true})
			requireUsage(t, env, 0, 0)
		})
	}
}

// Spec LOCK-1, LEASE-4, REF-9: a record that is being repaired is not deleted meanwhile, so that nothing is made of a record that
// is gone.
func TestRepairKeepsTheRecord(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	id := finalizedLayer(t, env, nil).ID()
	dropLease(t, env, id)
	found := check(t, env)
	block := env.Faults.BlockOp(fault.OpLeaseCreate)
	repaired := make(chan error, 1)
	go func() {
		_, err := env.Manager.Repair(ctx, found...)
		repaired <- err
	}()
	<-block.Entered()
	require.Empty(t, prune(t, env, usage.PruneInfo{}))
	block.Release()
	require.NoError(t, <-repaired)
	require.Equal(t, []string{id}, leaseIDs(t, env))
	require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
	require.Empty(t, leaseIDs(t, env))
	done, err := env.Manager.Repair(ctx, found...)
	require.NoError(t, err)
	require.Empty(t, done, "there is no such record any more")
}

// Spec LEASE-1, LOCK-2: while a lease is remade by calls that share no transaction, Check waits, and does not take the lease
// that stands in meanwhile for one that is left.
func TestCheckWaitsForALeaseBeingRemade(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	id := finalizedLayer(t, env, nil).ID()
	dropLease(t, env, id)
	found := check(t, env)
	block := env.Faults.Block(fault.Match{Op: fault.OpLeaseAddResource, Key: id, When: fault.Before})
	repaired := make(chan error, 1)
	go func() {
		_, err := env.Manager.Repair(ctx, found...)
		repaired <- err
	}()
	<-block.Entered()
	require.ElementsMatch(t, []string{id, id + "-repair"}, leaseIDs(t, env))
	result := startCheck(env, true)
	require.Empty(t, result, "it waits")
	block.Release()
	require.NoError(t, <-repaired)
	got := <-result
	require.NoError(t, got.err)
	require.Empty(t, got.found)
	require.Equal(t, []string{id}, leaseIDs(t, env))
}

// Spec INIT-10, LEASE-1, faults 23, 29: a process that dies while it remakes a lease may leave one that lists nothing; the next start
// knows it by the lease that stood in, and completes it.
func TestStartCompletesALeaseThatWasRemade(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		id := finalizedLayer(t, env, nil).ID()
		dropLease(t, env, id)
		labels := ourLabels(t, env, id)
		addLease(t, env, id, labels)
		labels["buildkit/lease.temporary"] = "now"
		addLease(t, env, id+"-repair", labels)
		env.Crash()
		env.Open()
		require.Equal(t, []string{id}, leaseIDs(t, env))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, check(t, env))
	})
}

// Spec META-13, INIT-3, INIT-10, DU-5: a row whose blob has a name that no blob can have fails neither a start nor DiskUsage.
func TestRowWithADigestThatIsNone(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		id := withBlob(t, env, "nonsense")
		dropLease(t, env, id)
		env.Reopen()
		require.Equal(t, []string{id}, leaseIDs(t, env))
		requireUsage(t, env, 0, 1)
		requireFound(t, check(t, env), finding(cache.FindingBlobMissing, id, "nonsense", ""))
		require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
	})
}
