package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// This file is about what interrupts a prune of more records than are deleted in one go.

// batch is how many records tests have Prune delete in one go.
const batch = 64

// threeBatches is how many records are more than two batches.
const threeBatches = 150

// stand makes idle records of ten bytes, two thirds of them on others, so that batches have parents and children in them and between them. The
// policies of emptying delete all of them.
func stand(t testing.TB, env *testutil.Env, n int) (ids []string) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(n), 5)) //nolint:gosec // a choice of tests
	for range n {
		var parent cache.ImmutableRef
		if len(ids) > 0 && rnd.IntN(3) > 0 {
			var err error
			parent, err = env.Manager.Get(ctx, ids[rnd.IntN(len(ids))], nil, cache.NoUpdateLastUsed)
			require.NoError(t, err)
		}
		ref := testutil.MakeLayer(t, env, parent, nil)
		require.NoError(t, ref.Finalize(ctx))
		require.NoError(t, env.Double.SetUsage(ctx, ref.ID(), snapshots.Usage{Size: 10}))
		ids = append(ids, ref.ID())
		require.NoError(t, ref.Release(ctx))
		if parent != nil {
			require.NoError(t, parent.Release(ctx))
		}
	}
	require.NoError(t, env.Opt.MetadataStore.Flush())
	cache.SetPruneBatch(env.Manager, batch)
	env.Faults.Reset()
	return ids
}

// emptying are policies that delete all there is.
var emptying = map[string]usage.PruneInfo{"plain": {All: true}, "budget": {All: true, MaxUsedSpace: 1}}

// requireWhole demands of every record that it is there, idle and with all it lies on, or not there at all.
func requireWhole(t *testing.T, env *testutil.Env, ids []string) (there []string) {
	t.Helper()
	infos := usageByID(t, env)
	for _, id := range ids {
		u := infos[id]
		ref, err := env.Manager.Get(ctx, id, nil, cache.NoUpdateLastUsed)
		if u == nil {
			require.True(t, cache.IsNotFound(err), "%v", err)
			continue
		}
		require.NoError(t, err)
		require.False(t, u.InUse)
		_, err = ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		release(t, ref)
		for _, p := range u.Parents {
			require.Contains(t, infos, p)
		}
		there = append(there, id)
	}
	return there
}

// requireEmpty demands that nothing at all is left.
func requireEmpty(t *testing.T, env *testutil.Env) {
	t.Helper()
	require.Equal(t, cache.Stats{}, env.Manager.Stats())
	require.Zero(t, rowCount(t, env))
	require.Empty(t, leaseIDs(t, env))
	require.Empty(t, snapshotNames(t, env))
	require.Empty(t, env.Problems(ctx))
}

// nth has an action happen the nth time that a point is passed.
func nth(n int32, do func()) fault.Action {
	var passed atomic.Int32 // sizes are measured several at a time
	return func(context.Context, fault.Point) error {
		if passed.Add(1) == n {
			do()
		}
		return nil
	}
}

// Spec PRN-1, PRN-15, PRN-17, quirk Q71: the caller's context ends in each phase of a prune. Prune returns the cause. Then nothing contradicts
// anything, what it was working on is there or gone, and the next prune deletes the rest.
func TestPruneCancelledInEachPhase(t *testing.T) {
	at := func(n int32, op string, when fault.When) func(env *testutil.Env, cancel func()) {
		return func(env *testutil.Env, cancel func()) {
			env.Faults.Inject(fault.Match{Op: op, When: when}, nth(n, cancel))
		}
	}
	for _, phase := range []struct {
		name   string
		when   func(env *testutil.Env, cancel func())
		policy usage.PruneInfo
		// checker and consumer cancel when they have been called so often.
		checker, consumer int
		// gone is how many records are gone then.
		gone int
	}{
		{name: "before it begins", when: func(_ *testutil.Env, cancel func()) { cancel() }},
		{name: "finishing an earlier one", when: at(1, fault.OpLeaseDelete, fault.Before)},
		{name: "asking the checker", checker: 70, policy: usage.PruneInfo{Filter: []string{"immutable"}}},
		{name: "measuring", when: at(3, fault.OpSnapshotUsage, fault.Before), policy: usage.PruneInfo{All: true, MaxUsedSpace: 1}},
		{name: "measuring without a budget", when: at(3, fault.OpSnapshotUsage, fault.Before)},
		{name: "marking the second batch", when: at(2, fault.OpDBUpdate, fault.Before), gone: 2 * batch},
		{name: "between marks and leases", when: at(2, fault.OpDBUpdate, fault.After), gone: 2 * batch},
		{name: "deleting leases of the first batch", when: at(20, fault.OpLeaseDelete, fault.Before), gone: batch},
		{name: "between leases and rows", when: at(2, fault.OpTransaction, fault.After), gone: 2 * batch},
		{name: "deleting rows, with marks on others", when: at(3, fault.OpDBUpdate, fault.Before), gone: threeBatches},
		{name: "deleting the last rows", when: at(4, fault.OpDBUpdate, fault.Before), gone: threeBatches},
		{name: "after the last batch", when: at(4, fault.OpDBUpdate, fault.After), gone: threeBatches},
		{name: "reporting the first batch", consumer: 6, gone: 2 * batch}, // the second was begun by then
		{name: "reporting the second batch", consumer: 70, gone: threeBatches},
		{name: "collecting", when: at(1, fault.OpGarbageCollect, fault.Before), gone: threeBatches},
	} {
		t.Run(phase.name, func(t *testing.T) {
			var cancel func()
			asked := 0
			env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
				o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
					return checkerFunc(func(string, []digest.Digest) bool {
						if asked++; asked == phase.checker {
							cancel()
						}
						return false
					}), nil
				}
			}))
			ids := stand(t, env, threeBatches)
			first := 0
			if phase.name == "finishing an earlier one" {
				extra := sized(t, env, 1)
				broken := env.Faults.FailOp(fault.OpLeaseDelete, errdefs.ErrUnavailable)
				_, err := pruneResult(env, usage.PruneInfo{Filter: []string{"id==" + extra.ID()}})
				require.True(t, errdefs.IsUnavailable(err), "%v", err)
				broken.Remove()
			}
			short, end := context.WithCancelCause(ctx)
			why := errors.New("enough")
			asked, cancel = 0, func() { end(why) }
			if phase.policy.Filter == nil {
				phase.policy.All = true
			}
			if phase.when != nil {
				phase.when(env, cancel)
			}
			ch, read := make(chan usage.Info), make(chan struct{})
			go func() {
				defer close(read)
				for range ch {
					if first++; first == phase.consumer {
						cancel()
					}
				}
			}()
			err := env.Manager.Prune(short, ch, phase.policy)
			close(ch)
			<-read
			require.ErrorIs(t, err, why)
			cache.Quiesce(env.Manager)
			env.Faults.Reset()
			require.Empty(t, env.Problems(ctx))
			there := requireWhole(t, env, ids)
			require.Len(t, ids, len(there)+phase.gone)
			require.ElementsMatch(t, there, prunedIDs(prune(t, env, pruneAll)))
			requireEmpty(t, env)
		})
	}
}

// someOf lists the points to try: all of them with LAYERCACHE_SWEEP=full, else about three, which depend on the test's name.
func someOf(t *testing.T, points int) (list []int) {
	t.Helper()
	step := 1
	if os.Getenv("LAYERCACHE_SWEEP") != "full" {
		step = points/3 + 1
	}
	for n := 1 + seedOf(t)%step; n <= points; n += step {
		list = append(list, n)
	}
	return list
}

// Fault 23, spec PRN-14, PRN-15, PRN-16, quirks Q28, Q71: a call to the backend fails, or was made and its answer lost, at every point of a prune
// of three batches. No parent is in use afterwards, the next prune deletes what is left, and both together
// report each record once.
func TestPruneOfBatchesFailsAtEveryPoint(t *testing.T) {
	const records, batch = 20, 8 // there are as many points as calls for each record
	for backend, opts := range faultBackends {
		for name, policy := range emptying {
			t.Run(backend+"/"+name, func(t *testing.T) {
				env := testutil.New(t, opts...)
				stand(t, env, records)
				cache.SetPruneBatch(env.Manager, batch)
				env.Faults.Reset()
				require.Len(t, prune(t, env, policy), records)
				for _, n := range someOf(t, env.Faults.Len()) {
					ids := stand(t, env, records)
					cache.SetPruneBatch(env.Manager, batch)
					env.Faults.FailAt(n, errdefs.ErrUnavailable)
					gone, err := pruneResult(env, policy)
					p := env.Faults.Trace()[n-1]
					// A lease that is made for a mount only is not there, which the backend tells before its answer can get lost.
					if p.When != fault.After || !strings.HasSuffix(p.Key, "-view") {
						require.True(t, errdefs.IsUnavailable(err), "%s: %v", p, err)
					}
					require.Empty(t, env.Faults.Pending())
					env.Faults.Reset()
					require.ElementsMatch(t, ids, append(prunedIDs(gone), requireWhole(t, env, ids)...), "%s", p)
					require.ElementsMatch(t, ids, append(prunedIDs(gone), prunedIDs(prune(t, env, pruneAll))...), "%s", p)
					requireEmpty(t, env)
				}
			})
		}
	}
}

// Spec PRN-15, quirk Q71: marks that cannot be set are taken back, and the records are visible; where they cannot be taken back either, the
// records are gone, and the next prune deletes what is left of them. The batch before, whose rows were to go with those marks, is gone in any case.
func TestPruneWithoutADatabase(t *testing.T) {
	for before := range 3 { // batches that were marked
		for name, times := range map[string]int{"for a moment": 1, "for long": 0} {
			t.Run(fmt.Sprintf("%d batches/%s", before, name), func(t *testing.T) {
				env := testutil.New(t, testutil.Doubles())
				ids := stand(t, env, threeBatches)
				passed, failed := 0, 0
				env.Faults.Inject(fault.Match{Op: fault.OpDBUpdate, When: fault.Before}, func(context.Context, fault.Point) error {
					if passed++; passed <= before || times > 0 && failed == times {
						return nil
					}
					failed++
					return errdefs.ErrUnavailable
				})
				gone, err := pruneResult(env, pruneAll)
				require.True(t, errdefs.IsUnavailable(err), "%v", err)
				require.Positive(t, failed)
				env.Faults.Reset()
				there := requireWhole(t, env, ids)
				if times == 0 {
					require.Len(t, gone, min((before+1)*batch, threeBatches))
				} else {
					require.Len(t, gone, before*batch)
				}
				require.ElementsMatch(t, ids, append(prunedIDs(gone), there...))
				require.ElementsMatch(t, there, prunedIDs(prune(t, env, pruneAll)))
				requireEmpty(t, env)
			})
		}
	}
}

// spaceReserve counts how often it is released and kept.
type spaceReserve struct{ released, kept int }

func (r *spaceReserve) Release() error { r.released++; return nil }

func (r *spaceReserve) Keep() error { r.kept++; return nil }

func (r *spaceReserve) Kept() (string, int64, error) { return "none", 0, nil }

// Fault 21, spec PRN-15: a prune on a full disk goes on with the space that was kept back, and once more with what it has deleted since then, but not if
// that was nothing.
func TestPruneOnAFullDisk(t *testing.T) {
	for _, c := range []struct {
		full                            []int // the transactions of rows that fail, by their numbers
		released, collected, kept, gone int
	}{
		{full: []int{2}, released: 1, collected: 1, kept: 1, gone: threeBatches},
		{full: []int{2, 6}, released: 2, collected: 2, kept: 1, gone: threeBatches},
		{full: []int{2, 5}, released: 1, gone: batch}, // 3 takes marks back that are not there, 4 removes the rows of the first batch
	} {
		t.Run(fmt.Sprint(c.full), func(t *testing.T) {
			reserve := &spaceReserve{}
			env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Reserve = reserve }))
			ids := stand(t, env, threeBatches)
			updates := 0
			env.Faults.Inject(fault.Match{Op: fault.OpDBUpdate, When: fault.Before}, func(context.Context, fault.Point) error {
				if updates++; slices.Contains(c.full, updates) {
					return syscall.ENOSPC
				}
				return nil
			})
			gone, err := pruneResult(env, pruneAll)
			require.Equal(t, c.kept == 0, errors.Is(err, syscall.ENOSPC), "%v", err)
			require.Len(t, gone, c.gone)
			require.Equal(t, spaceReserve{released: c.released, kept: c.kept}, *reserve)
			require.Equal(t, c.collected, env.Faults.Count(fault.OpGarbageCollect))
			env.Faults.Reset()
			there := requireWhole(t, env, ids)
			require.ElementsMatch(t, ids, append(prunedIDs(gone), there...))
			require.ElementsMatch(t, there, prunedIDs(prune(t, env, pruneAll)))
			requireEmpty(t, env)
		})
	}
}

// Fault 7, spec PRN-7, PRN-14: whoever asks for records during a prune gets not found, or a ref that works and keeps its record, whatever the
// prune is doing just then.
func TestGetDuringAPrune(t *testing.T) {
	for name, policy := range emptying {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles())
			ids := stand(t, env, threeBatches)
			rnd := rand.New(rand.NewPCG(3, 3)) //nolint:gosec // a choice of tests
			held, missing := map[string]cache.ImmutableRef{}, map[string]bool{}
			var mu sync.Mutex // sizes are measured several at a time
			points, over := 0, false
			env.Faults.OnPoint(func(testutil.Point) {
				mu.Lock()
				defer mu.Unlock()
				if points++; over || points%3 != 0 {
					return
				}
				id := ids[rnd.IntN(len(ids))]
				ref, err := env.Manager.Get(ctx, id, nil)
				if err != nil {
					missing[id] = cache.IsNotFound(err)
					return
				}
				if held[id] == nil && rnd.IntN(20) == 0 {
					held[id] = ref
				} else {
					err = ref.Release(ctx)
				}
				if err != nil || missing[id] {
					panic(fmt.Sprintf("%s was not found before: %v", id, err))
				}
			})
			gone := prunedIDs(prune(t, env, policy))
			over = true
			require.NotEmpty(t, held)
			require.NotEmpty(t, missing)
			for id, ok := range missing {
				require.True(t, ok, "another error than not found")
				require.Contains(t, gone, id)
			}
			for id, ref := range held {
				require.NotContains(t, gone, id)
				_, err := ref.Mount(ctx, true, nil)
				require.NoError(t, err)
				for _, p := range usageByID(t, env)[id].Parents {
					require.NotContains(t, gone, p)
				}
			}
			for _, ref := range held {
				release(t, ref)
			}
			gone = append(gone, prunedIDs(prune(t, env, pruneAll))...)
			slices.Sort(gone)
			require.Equal(t, gone, slices.Compact(slices.Clone(gone)), "each once")
			require.ElementsMatch(t, ids, gone)
			requireEmpty(t, env)
		})
	}
}

// Fault 7, spec MGR-41: what Search found and Prune deleted is not found, by any verb.
func TestPruneBetweenSearchAndGet(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := finalized(t, env, nil, nil)
		require.NoError(t, ref.SetString("k", "v", "k:v"))
		release(t, ref)
		pair := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		require.NoError(t, pair.SetString("k", "v", "k:v"))
		release(t, pair)
		found, err := env.Manager.Search(ctx, "k:v", false)
		require.NoError(t, err)
		require.Len(t, found, 2)
		require.Len(t, prune(t, env, pruneAll), 2)
		for _, md := range found {
			_, err := env.Manager.Get(ctx, md.ID(), nil)
			require.True(t, cache.IsNotFound(err), "%v", err)
			_, err = env.Manager.GetMutable(ctx, md.ID())
			require.True(t, cache.IsNotFound(err), "%v", err)
			require.Error(t, md.SetDescription("of nothing"))
			require.Empty(t, md.GetString("k"))
		}
		found, err = env.Manager.Search(ctx, "k:v", false)
		require.NoError(t, err)
		require.Empty(t, found)
		requireEmpty(t, env)
	})
}
