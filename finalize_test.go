package cache_test

import (
	"context"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// Spec REC-3, REC-4, REF-11, quirk Q29: when Finalize returns, the mutable half is gone without a trace.
func TestFinalizeIsSynchronous(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		parent := finalized(t, env, nil, nil)
		imm := testutil.MakeLayer(t, env, parent, fileIn(t, "f", "data"), cache.CachePolicyRetain)
		mutID := mutableID(t, env, imm)
		require.Equal(t, 3, rowCount(t, env))
		require.NotContains(t, snapshotNames(t, env), imm.ID(), "REC-3: Commit does nothing to the snapshot")
		require.NoError(t, imm.Finalize(ctx))

		require.Equal(t, 2, rowCount(t, env))
		requireUsage(t, env, 2, 0)
		require.ElementsMatch(t, []string{parent.ID(), imm.ID()}, leaseIDs(t, env))
		require.ElementsMatch(t, []string{parent.ID(), imm.ID()}, snapshotNames(t, env))
		_, ok := imm.GetEqualMutable()
		require.False(t, ok)
		_, err := env.Manager.GetMutable(ctx, mutID)
		require.True(t, cache.IsNotFound(err), "%v", err)
		_, err = env.Manager.Get(ctx, mutID, nil)
		require.True(t, cache.IsNotFound(err), "%v", err)
		requireFile(t, imm, "f", "data")

		env.Faults.Reset()
		require.NoError(t, imm.Finalize(ctx))
		require.Zero(t, env.Faults.Len(), "REF-10")
		release(t, parent, imm)
		require.Len(t, prune(t, env, usage.PruneInfo{}), 2, "both halves' links on the parent are gone")
	})
}

// Spec REF-13: of Finalize calls at the same time, through any refs of a record, one does the work.
func TestConcurrentFinalize(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := testutil.MakeLayer(t, env, nil, nil)
		env.Faults.Reset()
		var wg sync.WaitGroup
		errs := make([]error, 16)
		for i := range errs {
			ref := imm.Clone()
			wg.Go(func() {
				if errs[i] = ref.Finalize(ctx); errs[i] == nil {
					errs[i] = ref.Release(ctx)
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotCommit))
		release(t, imm)
	})
}

// Spec REF-12, LEASE-7, quirk Q30: a failed Finalize takes back the lease that it made, and no other.
func TestFailedFinalizeKeepsALeaseThatWasThere(t *testing.T) {
	for name, before := range map[string]bool{"lease before": true, "no lease before": false} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				imm := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "data"))
				mutID := mutableID(t, env, imm)
				if before {
					_, err := env.Opt.LeaseManager.Create(ctx, leases.WithID(imm.ID()), leases.WithLabel("containerd.io/gc.flat", "now"))
					require.NoError(t, err)
				}
				env.Faults.FailOp(fault.OpSnapshotCommit, errBackend)
				require.ErrorIs(t, imm.Finalize(ctx), errBackend)
				env.Faults.Reset()
				l, _ := leaseOf(t, env, imm.ID())
				require.Equal(t, before, l != nil)
				l, _ = leaseOf(t, env, mutID)
				require.NotNil(t, l)
				require.NoError(t, env.GC(ctx))
				requireFile(t, imm, "f", "data")

				require.NoError(t, imm.Finalize(ctx))
				_, rs := leaseOf(t, env, imm.ID())
				require.Len(t, rs, 1, "a lease that was there is completed")
				require.NoError(t, env.GC(ctx))
				requireFile(t, imm, "f", "data")
				release(t, imm)
				require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
			})
		})
	}
}

// afterRowFailure are the ways to go on with a record whose snapshot is committed while its rows say otherwise.
var afterRowFailure = map[string]func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string){
	"Finalize again": func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string) {
		require.NoError(t, imm.Finalize(ctx))
		require.Equal(t, 1, rowCount(t, env))
		requireFile(t, imm, "f", "data")
		release(t, imm)
	},
	"mount": func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string) {
		requireFile(t, imm, "f", "data")
		release(t, imm)
	},
	"child": func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string) {
		child := newMutable(t, env, imm)
		requireFile(t, child, "f", "data")
		release(t, imm, child)
	},
	"release then get": func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string) {
		release(t, imm)
		_, err := env.Manager.GetMutable(ctx, mutID)
		require.True(t, cache.IsNotFound(err), "%v", err)
		ref := get(t, env, imm.ID())
		requireFile(t, ref, "f", "data")
		release(t, ref)
	},
	"restart": func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string) {
		release(t, imm)
		env.Reopen()
	},
	"crash": func(t *testing.T, env *testutil.Env, imm cache.ImmutableRef, mutID string) {
		env.Crash()
		env.Open()
	},
}

// Spec REF-14, INIT-5: if only the rows of a finalized record cannot be written, it stays usable, and
// everything that comes next mends it.
func TestFinalizeRowFailure(t *testing.T) {
	for name, next := range afterRowFailure {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				imm := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "data"), cache.CachePolicyRetain)
				mutID := mutableID(t, env, imm)
				env.Faults.FailOp(fault.OpDBUpdate, errBackend)
				require.ErrorIs(t, imm.Finalize(ctx), errBackend)
				env.Faults.Reset()
				require.NoError(t, env.GC(ctx))
				require.Equal(t, []string{imm.ID()}, snapshotNames(t, env))
				next(t, env, imm, mutID)

				ref := get(t, env, imm.ID())
				requireFile(t, ref, "f", "data")
				require.NoError(t, ref.Finalize(ctx))
				release(t, ref)
				_, err := env.Manager.GetMutable(ctx, mutID)
				require.True(t, cache.IsNotFound(err), "%v", err)
				require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
				require.Equal(t, 1, rowCount(t, env))
			})
		})
	}
}

// Spec REF-14, REF-8: such a record goes with its last ref if nobody retains it, with everything that it has.
func TestRemovalAfterFinalizeRowFailure(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "data"))
		env.Faults.FailOp(fault.OpDBUpdate, errBackend)
		require.ErrorIs(t, imm.Finalize(ctx), errBackend)
		env.Faults.Reset()
		release(t, imm)
		require.Zero(t, rowCount(t, env))
		require.Empty(t, leaseIDs(t, env))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, snapshotNames(t, env))
	})
}

// Spec REF-11, MGR-2: New finalizes its parent; a parent that cannot be finalized is an error that says so.
func TestNewFinalizesItsParent(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		parent := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "data"))
		env.Faults.FailOp(fault.OpSnapshotCommit, errdefs.ErrUnavailable)
		child, err := env.Manager.New(ctx, parent, nil)
		require.True(t, errdefs.IsUnavailable(err), "%v", err)
		require.Contains(t, err.Error(), parent.ID())
		require.Nil(t, child)
		env.Faults.Reset()
		_, ok := parent.GetEqualMutable()
		require.True(t, ok)

		child = newMutable(t, env, parent)
		_, ok = parent.GetEqualMutable()
		require.False(t, ok)
		require.Equal(t, []string{parent.ID()}, usageByID(t, env)[child.ID()].Parents)
		release(t, parent)
		requireUsage(t, env, 2, 0)
		require.Empty(t, prune(t, env, usage.PruneInfo{All: true}), "the parent is its child's")
		requireFile(t, child, "f", "data")
		release(t, child)
		requireUsage(t, env, 0, 1)
	})
}

// Spec REF-12: a Commit that was not answered, because a daemon was too slow or its connection broke, may come through after Finalize
// was told that there is no such snapshot. Nothing may keep it from being kept then: the mutable half's snapshot is gone with it.
func TestFinalizeWithoutAnAnswer(t *testing.T) {
	for _, failure := range []error{errdefs.ErrUnavailable, context.DeadlineExceeded, context.Canceled} {
		env := testutil.New(t, testutil.Doubles(), testutil.Separate())
		imm := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "data"), cache.CachePolicyRetain)
		mutID := mutableID(t, env, imm)
		env.Faults.Inject(fault.Match{Op: fault.OpSnapshotCommit, When: fault.Before}, func(context.Context, fault.Point) error { return failure })
		require.ErrorIs(t, imm.Finalize(ctx), failure)
		env.Faults.Reset()

		require.NoError(t, env.Double.Snapshotter().Commit(leases.WithLease(ctx, imm.ID()), imm.ID(), mutID), "the lease is there")
		require.NoError(t, env.GC(ctx))
		require.NoError(t, imm.Finalize(ctx))
		requireFile(t, imm, "f", "data")
		require.NotContains(t, leaseIDs(t, env), mutID)
		release(t, imm)
	}
}
