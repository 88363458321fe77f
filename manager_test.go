package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

var ctx = context.Background()

// backends are the backends that rules about the backend are tested on.
var backends = map[string][]testutil.Option{
	"doubles":  {testutil.Doubles()},
	"joined":   {testutil.JoinedDoubles()},
	"separate": {testutil.Doubles(), testutil.Separate()},
	"native":   nil,
	"overlay":  {testutil.Overlay()},
}

func eachBackend(t *testing.T, run func(t *testing.T, env *testutil.Env)) {
	t.Helper()
	for name, opts := range backends {
		t.Run(name, func(t *testing.T) { run(t, testutil.New(t, opts...)) })
	}
}

func requireUsage(t *testing.T, env *testutil.Env, inUse, idle int) {
	t.Helper()
	gotInUse, gotIdle := testutil.Usage(t, env)
	require.Equal(t, [2]int{inUse, idle}, [2]int{gotInUse, gotIdle}, "DU(in use, idle)")
}

func release(t *testing.T, refs ...cache.Ref) {
	t.Helper()
	for _, r := range refs {
		require.NoError(t, r.Release(ctx))
	}
}

func newMutable(t *testing.T, env *testutil.Env, parent cache.ImmutableRef, opts ...cache.RefOption) cache.MutableRef {
	t.Helper()
	ref, err := env.Manager.New(ctx, parent, nil, opts...)
	require.NoError(t, err)
	return ref
}

func commit(t *testing.T, ref cache.MutableRef) cache.ImmutableRef {
	t.Helper()
	imm, err := ref.Commit(ctx)
	require.NoError(t, err)
	return imm
}

// Scenario S-1: the basic life cycle; spec MGR-1, MGR-2, MGR-7, MGR-9, MGR-13, REF-10, REF-11.
func TestBasicLifeCycle(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		m := env.Manager
		requireUsage(t, env, 0, 0)
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		requireUsage(t, env, 1, 0)
		_, err := m.GetMutable(ctx, mut.ID())
		require.ErrorIs(t, err, cache.ErrLocked)

		imm := commit(t, mut)
		requireUsage(t, env, 1, 0)
		_, err = m.GetMutable(ctx, mut.ID())
		require.ErrorIs(t, err, cache.ErrLocked)
		release(t, imm)
		requireUsage(t, env, 0, 1)

		mut, err = m.GetMutable(ctx, mut.ID())
		require.NoError(t, err)
		requireUsage(t, env, 1, 0)
		imm = commit(t, mut)
		require.NoError(t, imm.Finalize(ctx))
		release(t, imm)
		_, err = m.GetMutable(ctx, mut.ID())
		require.True(t, cache.IsNotFound(err), "%v", err)
		_, err = m.GetMutable(ctx, imm.ID())
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)

		first, err := m.Get(ctx, imm.ID(), nil)
		require.NoError(t, err)
		second, err := m.Get(ctx, imm.ID(), nil)
		require.NoError(t, err)
		requireUsage(t, env, 1, 0)

		child := commit(t, newMutable(t, env, first))
		require.NoError(t, child.Finalize(ctx))
		release(t, first, second)
		requireUsage(t, env, 2, 0)
		release(t, child)
		requireUsage(t, env, 0, 2)

		require.Len(t, prune(t, env, usage.PruneInfo{}), 2)
		requireUsage(t, env, 0, 0)
		require.Empty(t, snapshotNames(t, env))
	})
}

func prune(t *testing.T, env *testutil.Env, policies ...usage.PruneInfo) []usage.Info {
	t.Helper()
	got, err := pruneResult(env, policies...)
	require.NoError(t, err)
	return got
}

// requireGone demands that a record without refs can be pruned, in the end: what a call that failed has begun may
// keep it until it has stopped.
func requireGone(t *testing.T, env *testutil.Env, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		gone := prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + id}})
		return len(gone) == 1 && gone[0].ID == id
	}, 10*time.Second, time.Millisecond)
}

func snapshotNames(t *testing.T, env *testutil.Env) []string {
	t.Helper()
	var names []string
	require.NoError(t, env.Opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}))
	return names
}

func leaseIDs(t *testing.T, env *testutil.Env) []string {
	t.Helper()
	ls, err := env.Opt.LeaseManager.List(ctx)
	require.NoError(t, err)
	ids := make([]string, len(ls))
	for i, l := range ls {
		ids[i] = l.ID
	}
	return ids
}

// Scenario S-2: what nobody asked to retain goes with its last ref; spec REF-8.
func TestUnretainedRecordGoesWithItsLastRef(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil)
		imm := commit(t, mut)
		release(t, imm)
		requireUsage(t, env, 0, 0)
		for _, id := range []string{mut.ID(), imm.ID()} {
			_, err := env.Manager.Get(ctx, id, nil)
			require.True(t, cache.IsNotFound(err), "%v", err)
		}
		require.Empty(t, leaseIDs(t, env))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, snapshotNames(t, env))

		release(t, newMutable(t, env, nil))
		requireUsage(t, env, 0, 0)
	})
}

// Scenario S-3: a lazy commit survives restarts, and can be taken back after one; spec INIT-6, REC-3, quirk Q03.
func TestLazyCommitOverRestart(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain, cache.WithDescription("step"))
		md, ok := imm.GetEqualMutable()
		require.True(t, ok)
		mutID, immID := md.ID(), imm.ID()
		release(t, imm)
		env.Reopen()

		imm, err := env.Manager.Get(ctx, immID, nil)
		require.NoError(t, err)
		require.Equal(t, "step", imm.GetDescription())
		_, err = env.Manager.GetMutable(ctx, mutID)
		require.ErrorIs(t, err, cache.ErrLocked, "the halves of a loaded pair are one record")
		release(t, imm)
		mut, err := env.Manager.GetMutable(ctx, mutID)
		require.NoError(t, err)
		_, err = env.Manager.Get(ctx, immID, nil)
		require.True(t, cache.IsNotFound(err), "%v", err)

		imm = commit(t, mut)
		immID = imm.ID()
		release(t, imm)
		env.Reopen()
		imm, err = env.Manager.Get(ctx, immID, nil)
		require.NoError(t, err)
		require.NoError(t, imm.Finalize(ctx))
		release(t, imm)
		_, err = env.Manager.GetMutable(ctx, mutID)
		require.True(t, cache.IsNotFound(err), "%v", err)
	})
}

// Scenario S-4: the process died between committing the snapshot and storing it; spec INIT-5.
func TestHalfFinalized(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := testutil.MakeLayer(t, env, nil, func(dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o600))
		}, cache.CachePolicyRetain)
		md, ok := imm.GetEqualMutable()
		require.True(t, ok)
		mutID, immID := md.ID(), imm.ID()
		release(t, imm)
		require.NoError(t, env.Opt.Snapshotter.Commit(ctx, immID, mutID))
		env.Reopen()

		_, err := env.Manager.GetMutable(ctx, mutID)
		require.True(t, cache.IsNotFound(err), "%v", err)
		imm, err = env.Manager.Get(ctx, immID, nil)
		require.NoError(t, err)
		env.Faults.Reset()
		require.NoError(t, imm.Finalize(ctx))
		require.Zero(t, env.Faults.Len(), "Finalize of a finalized record does nothing")
		_, err = env.Opt.Snapshotter.Stat(ctx, immID)
		require.NoError(t, err)
		testutil.WithMount(t, imm, true, func(dir string) {
			got, err := os.ReadFile(filepath.Join(dir, "f"))
			require.NoError(t, err)
			require.Equal(t, "data", string(got))
		})
		release(t, imm)
		_, pair := imm.GetEqualMutable()
		require.False(t, pair)
	})
}

// A snapshot committed behind the back of a running manager is found by Finalize, too; spec REF-14.
func TestFinalizeFindsACommittedSnapshot(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil)
		imm := commit(t, mut)
		require.NoError(t, env.Opt.Snapshotter.Commit(ctx, imm.ID(), mut.ID()))
		require.NoError(t, imm.Finalize(ctx))
		require.NoError(t, env.GC(ctx))
		_, err := env.Opt.Snapshotter.Stat(ctx, imm.ID())
		require.NoError(t, err)
		release(t, imm)
	})
}

// Spec MGR-10, MGR-11, MGR-12; quirks Q18, Q19.
func TestGetOfAMutableRecord(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		_, err := env.Manager.Get(ctx, mut.ID(), nil)
		require.ErrorIs(t, err, cache.ErrLocked)
		release(t, mut)
		before := usageByID(t, env)[mut.ID()]
		require.Equal(t, 1, before.UsageCount)

		env.Faults.FailOp("db.Update", errdefs.ErrUnavailable)
		_, err = env.Manager.Get(ctx, mut.ID(), nil)
		require.True(t, errdefs.IsUnavailable(err), "%v", err)
		env.Faults.Reset()
		requireUsage(t, env, 0, 1)

		imm, err := env.Manager.Get(ctx, mut.ID(), nil, cache.NoUpdateLastUsed)
		require.NoError(t, err, "a failed implicit commit must leave no claim behind")
		require.NotEqual(t, mut.ID(), imm.ID())
		_, err = env.Manager.Get(ctx, mut.ID(), nil)
		require.ErrorIs(t, err, cache.ErrLocked)
		release(t, imm)
		after := usageByID(t, env)[mut.ID()]
		require.Equal(t, before.UsageCount, after.UsageCount, "no-update counts in no case")

		again, err := env.Manager.Get(ctx, mut.ID(), nil)
		require.NoError(t, err)
		require.Equal(t, imm.ID(), again.ID(), "the immutable half there is")
		release(t, again)
	})
}

func usageByID(t *testing.T, env *testutil.Env) map[string]*usage.Info {
	t.Helper()
	infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
	require.NoError(t, err)
	out := map[string]*usage.Info{}
	for _, u := range infos {
		out[u.ID] = u
	}
	return out
}

// Spec MGR-3, quirks Q16, Q17: a New that fails, at any point, leaves its parent as it was and nothing else.
func TestFailedNewLeavesNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		parent := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		release(t, newMutable(t, env, parent)) // finalizes the parent
		require.NoError(t, env.GC(ctx))
		leases, before := leaseIDs(t, env), snapshotNames(t, env)

		env.Faults.Reset()
		release(t, newMutable(t, env, parent))
		points := env.Faults.Len()
		require.Greater(t, points, 6)
		for n := 1; n <= points; n++ {
			env.Faults.Reset()
			env.Faults.FailAt(n, errdefs.ErrUnavailable)
			ref, err := env.Manager.New(ctx, parent, nil)
			if err == nil { // the fault lies in the release
				release := ref.Release(ctx)
				require.Error(t, release, "point %d", n)
				env.Faults.Reset()
				require.NoError(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{}))
				continue
			}
			require.Nil(t, ref, "untyped nil")
			require.True(t, errdefs.IsUnavailable(err), "point %d: %v", n, err)
			env.Faults.Reset()
			requireUsage(t, env, 1, 0)
			require.ElementsMatch(t, leases, leaseIDs(t, env), "point %d", n)
		}
		require.NoError(t, env.GC(ctx))
		require.ElementsMatch(t, before, snapshotNames(t, env))
		release(t, parent)
		require.Len(t, prune(t, env, usage.PruneInfo{}), 1, "the parent is not held by anything")
	})
}

// Spec MGR-14, quirk Q20: taking a commit back deletes a lease that a failed finalize left.
func TestReopenDeletesAStrayLease(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		md, ok := imm.GetEqualMutable()
		require.True(t, ok)
		env.Faults.FailOp("snapshots.Commit", errdefs.ErrUnavailable)
		env.Faults.FailOp("leases.Delete", errdefs.ErrUnavailable)
		require.Error(t, imm.Finalize(ctx))
		env.Faults.Reset()
		release(t, imm)
		mut, err := env.Manager.GetMutable(ctx, md.ID())
		require.NoError(t, err)
		require.Equal(t, []string{mut.ID()}, leaseIDs(t, env))
		release(t, mut)
	})
}

// Spec MGR-14, quirk Q20: the same where the process died in between.
func TestReopenDeletesAStrayLeaseAfterRestart(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	md, ok := imm.GetEqualMutable()
	require.True(t, ok)
	env.Faults.FailOp("snapshots.Commit", errdefs.ErrUnavailable)
	env.Faults.FailOp("leases.Delete", errdefs.ErrUnavailable)
	require.Error(t, imm.Finalize(ctx))
	env.Crash()
	env.Faults.Reset()
	env.Open()
	require.Contains(t, leaseIDs(t, env), imm.ID())
	mut, err := env.Manager.GetMutable(ctx, md.ID())
	require.NoError(t, err)
	require.Equal(t, []string{mut.ID()}, leaseIDs(t, env))
	release(t, mut)
}

// Spec MGR-6: a ref that its caller has released may still serve as a parent while its record lives.
func TestReleasedRefAsParent(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	parent := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	release(t, parent)
	child := newMutable(t, env, parent)
	requireUsage(t, env, 2, 0)
	release(t, child)

	require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
	_, err := env.Manager.New(ctx, parent, nil)
	require.True(t, cache.IsNotFound(err), "%v", err)
}

// Spec MGR-15, REF-2: a mutable ref counts as a use.
func TestGetMutableCounts(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	release(t, mut)
	for want := 2; want <= 3; want++ {
		mut, err := env.Manager.GetMutable(ctx, mut.ID())
		require.NoError(t, err)
		release(t, mut)
		require.Equal(t, want, usageByID(t, env)[mut.ID()].UsageCount)
	}
}

// Spec MGR-41, META-8: exact and prefix search through the manager.
func TestSearch(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	a := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	b := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	require.NoError(t, a.SetString("k", "v", "idx:1"))
	require.NoError(t, b.SetString("k", "v", "idx:1::2"))
	find := func(index string, prefix bool) (ids []string) {
		mds, err := env.Manager.Search(ctx, index, prefix)
		require.NoError(t, err)
		for _, md := range mds {
			ids = append(ids, md.ID())
		}
		return ids
	}
	require.Equal(t, []string{a.ID()}, find("idx:1", false), "quirk Q06")
	require.ElementsMatch(t, []string{a.ID(), b.ID()}, find("idx:", true))
	require.Empty(t, find("idx:", false))
	release(t, a, b)
	prune(t, env, usage.PruneInfo{Filter: []string{"id==" + mutableID(t, env, a)}})
	require.Equal(t, []string{b.ID()}, find("idx:", true))
}

// mutableID returns the ID under which a pair is shown while idle.
func mutableID(t *testing.T, env *testutil.Env, ref cache.ImmutableRef) string {
	t.Helper()
	md, ok := ref.GetEqualMutable()
	require.True(t, ok)
	return md.ID()
}

// Spec MGR-42, fault 24-26: Close waits for nothing that is not running, and a second one is harmless.
func TestCloseTwice(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	m := env.Manager
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	_, err := m.New(ctx, nil, nil)
	require.ErrorIs(t, err, cache.ErrClosed)
	require.True(t, errdefs.IsFailedPrecondition(err))
	require.NoError(t, env.Close())
}

// Spec REC-7: the form of IDs.
func TestRecordIDs(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	seen := map[string]bool{}
	for range 50 {
		ref := newMutable(t, env, nil)
		id := ref.ID()
		require.Len(t, id, 25)
		require.Empty(t, strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz"))
		require.False(t, seen[id])
		seen[id] = true
		release(t, ref)
	}
}
