package cache_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// sized makes a finalized record that reports a size, and lets go of it.
func sized(t *testing.T, env *testutil.Env, size int64, opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	imm := testutil.MakeLayer(t, env, nil, nil, opts...)
	require.NoError(t, imm.Finalize(ctx))
	require.NoError(t, env.Double.SetUsage(ctx, imm.ID(), snapshots.Usage{Size: size}))
	release(t, imm)
	return imm
}

func prunedIDs(infos []usage.Info) []string {
	var ids []string
	for _, info := range infos {
		ids = append(ids, info.ID)
	}
	return ids
}

// Spec PRN-11, scenario S-1: plain mode deletes children, then their parents.
func TestPlainPruneDeletesChains(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		var chain []string
		var parent cache.ImmutableRef
		for range 5 {
			imm := testutil.MakeLayer(t, env, parent, nil)
			require.NoError(t, imm.Finalize(ctx))
			if parent != nil {
				release(t, parent)
			}
			parent = imm
			chain = append([]string{imm.ID()}, chain...)
		}
		require.Empty(t, prune(t, env, usage.PruneInfo{}), "spec PRN-7: all of it is in use")
		release(t, parent)
		require.Equal(t, chain, prunedIDs(prune(t, env, usage.PruneInfo{})))
		require.Empty(t, leaseIDs(t, env))
		require.Empty(t, snapshotNames(t, env), "PRN-1: the backend collected")
	})
}

// Spec PRN-8, PRN-9, PRN-10, FLT-1, FLT-2: what a policy protects.
func TestPruneProtects(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	internal := sized(t, env, 1)
	require.NoError(t, internal.SetRecordType(usage.TypeInternal))
	frontend := sized(t, env, 1)
	require.NoError(t, frontend.SetRecordType(usage.TypeFrontend))
	env.Clock.Advance(time.Hour)
	young := sized(t, env, 1)
	require.NoError(t, young.SetDescription("young one"))
	never := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	neverID := never.ID()
	require.NoError(t, never.Finalize(ctx))
	release(t, never)
	old := sized(t, env, 1)
	_ = neverID

	require.Empty(t, prune(t, env, usage.PruneInfo{KeepDuration: time.Minute}))
	require.Equal(t, []string{young.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{Filter: []string{`description~=^young`}})))
	require.ElementsMatch(t, []string{old.ID(), neverID}, prunedIDs(prune(t, env, usage.PruneInfo{})))
	require.Equal(t, []string{internal.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{All: true, Filter: []string{"type==internal"}})))
	require.Equal(t, []string{frontend.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{All: true})))
}

// Spec PRN-2, FLT-2: an invalid policy is found before anything is deleted for another.
func TestInvalidPoliciesDeleteNothing(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Root = "" }))
	sized(t, env, 1)
	for name, p := range map[string]usage.PruneInfo{
		"syntax":        {Filter: []string{"id=="}},
		"unknown field": {Filter: []string{"mutable,colour==red"}},
		"negative":      {MaxUsedSpace: -1},
		"no root":       {MinFreeSpace: 1},
	} {
		err := env.Manager.Prune(ctx, nil, usage.PruneInfo{}, p)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
	}
	_, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Filter: []string{"nope"}})
	require.True(t, errdefs.IsInvalidArgument(err), "fault 19: %v", err)
	requireUsage(t, env, 0, 1)
}

// Spec PRN-12, scenario S-30: the worked example.
func TestBudgetOrder(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	names := map[string]string{}
	start := env.Clock.Now()
	for _, r := range []struct {
		name  string
		at    int
		count int
	}{{"A", 10, 5}, {"D", 20, 2}, {"E", 30, 1}, {"B", 40, 1}, {"C", 0, 0}} {
		imm := sized(t, env, 10)
		names[imm.ID()] = r.name
		values := map[string]any{"cache.lastUsedAt": 0, "cache.usageCount": r.count, "snapshot.size": 10}
		if r.at > 0 {
			values["cache.lastUsedAt"] = start.Add(time.Duration(r.at) * time.Second).UnixNano()
		}
		require.NoError(t, env.Opt.MetadataStore.Flush())
		editRow(t, env, imm.ID(), values)
	}
	env.Crash()
	env.Open()
	var order string
	for _, id := range prunedIDs(prune(t, env, usage.PruneInfo{ReservedSpace: 25})) {
		order += names[id]
	}
	require.Equal(t, "CEA", order)
	for _, id := range prunedIDs(prune(t, env, usage.PruneInfo{MaxUsedSpace: 1})) {
		order += names[id]
	}
	require.Equal(t, "CEADB", order)
}

// Scenario S-28, quirks Q66, Q67, spec PRN-6: exactly within the budget is within the budget.
func TestBudgetEdges(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	require.Empty(t, prune(t, env, usage.PruneInfo{MinFreeSpace: 1}), "T = 0 is no reason to delete")
	for range 3 {
		sized(t, env, 10)
	}
	require.Empty(t, prune(t, env, usage.PruneInfo{MaxUsedSpace: 30}))
	require.Len(t, prune(t, env, usage.PruneInfo{MaxUsedSpace: 29}), 1)
	require.Empty(t, prune(t, env, usage.PruneInfo{MinFreeSpace: 1}), "there is that much free space")
}

// Fault 17, spec PRN-5: a missing amount of free space costs no more than that amount, although the disk is
// not freer before the backend has collected.
func TestMissingFreeSpaceDoesNotEmptyTheCache(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	for range 4 {
		sized(t, env, 1<<50)
	}
	free := cache.FreeSpace(t, env.Dir)
	got := prune(t, env, usage.PruneInfo{MinFreeSpace: free + 1<<50 + 1<<49})
	require.Len(t, got, 2)
	require.Len(t, prune(t, env, usage.PruneInfo{MinFreeSpace: 1 << 60, ReservedSpace: 1 << 50}), 1, "the reserve stays")
}

// Scenario S-29, quirk Q72, fault 16: the consumer of the channel may use the manager, and may stop reading.
func TestPruneChannel(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	for range 4 {
		sized(t, env, 1)
	}
	ch := make(chan usage.Info)
	done := make(chan error, 1)
	go func() { done <- env.Manager.Prune(t.Context(), ch, usage.PruneInfo{MaxUsedSpace: 1}) }()
	for n := 3; n > 0; n-- {
		<-ch
		left := usageByID(t, env)
		require.LessOrEqual(t, len(left), n)
		for _, u := range left {
			require.False(t, u.InUse)
		}
	}
	require.NoError(t, <-done)

	sized(t, env, 1)
	short, cancel := context.WithCancel(t.Context())
	go func() { done <- env.Manager.Prune(short, ch, usage.PruneInfo{}) }()
	<-ch
	layer := finalized(t, env, nil, nil) // the consumer reads no more, and nobody has to wait for it
	release(t, get(t, env, layer.ID()))
	requireUsage(t, env, 1, 0)
	release(t, layer)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled, "spec PRN-17")
	prune(t, env, usage.PruneInfo{Filter: []string{"id==" + layer.ID()}})
	require.NoError(t, env.Manager.Prune(ctx, nil), "PRN-16: no channel; PRN-1: no policy")
	requireUsage(t, env, 0, 0)
}

// Fault 26, spec PRN-17: Prune returns with its context though the backend hangs, and the work goes on.
func TestPruneLeavesAHungBackend(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	sized(t, env, 1)
	block := env.Faults.BlockOp("leases.Delete")
	short, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- env.Manager.Prune(short, nil, usage.PruneInfo{}) }()
	<-block.Entered()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	block.Release()
	require.NoError(t, env.Close())
	env.Open()
	requireUsage(t, env, 0, 0)
	require.Empty(t, leaseIDs(t, env))
}

// Quirk Q71, faults 21, 23: a lease that cannot be deleted holds up nothing else, and goes when it can.
func TestPruneGoesOnPastAnUndeletableLease(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	stuck := sized(t, env, 1)
	broken := env.Faults.Inject(fault.Match{Op: fault.OpLeaseDelete, Key: stuck.ID(), When: fault.Before}, fault.Fail(errdefs.ErrUnavailable))
	infos, err := pruneResult(env, usage.PruneInfo{})
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.Len(t, infos, 1, "spec PRN-16: it is gone for everybody, so it is reported")
	next := sized(t, env, 1)
	infos, err = pruneResult(env, usage.PruneInfo{})
	require.NoError(t, err)
	require.Equal(t, []string{next.ID()}, prunedIDs(infos))
	broken.Remove()
	_, err = pruneResult(env)
	require.NoError(t, err)
	require.Empty(t, leaseIDs(t, env))
}

func pruneResult(env *testutil.Env, policies ...usage.PruneInfo) (infos []usage.Info, err error) {
	ch, read := make(chan usage.Info), make(chan struct{})
	go func() {
		defer close(read)
		for info := range ch {
			infos = append(infos, info)
		}
	}()
	err = env.Manager.Prune(ctx, ch, policies...)
	close(ch)
	<-read
	return infos, err
}

// checkerFunc is an external reference checker.
type checkerFunc func(id string, blobs []digest.Digest) bool

func (f checkerFunc) Exists(id string, blobs []digest.Digest) bool { return f(id, blobs) }

// Spec PRN-3, PRN-8, DU-4: what something outside refers to is shared, with its ancestors, and protected unless
// all is asked for. A checker is made once a call, and what is used while it runs is not deleted (PRN-9).
func TestSharedRecords(t *testing.T) {
	var shared string
	var during func()
	made := 0
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
		o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
			made++
			return checkerFunc(func(id string, _ []digest.Digest) bool {
				if during != nil {
					during()
				}
				return id == shared
			}), nil
		}
	}))
	parent := finalizedLayer(t, env, nil)
	child := finalizedLayer(t, env, parent)
	other := finalizedLayer(t, env, nil)
	shared = child.ID()
	for id, u := range usageByID(t, env) {
		require.Equal(t, id != other.ID(), u.Shared)
	}
	made = 0
	during = func() {
		ref, err := env.Manager.Get(ctx, other.ID(), nil)
		require.NoError(t, err)
		release(t, ref)
	}
	env.Clock.Advance(time.Hour)
	require.Empty(t, prune(t, env, usage.PruneInfo{KeepDuration: time.Minute}), "it was used while the checker ran")
	require.Equal(t, 1, made)
	during = nil
	require.Equal(t, []string{other.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{})))
	require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 2)
}

// Spec SIZE-1, DU-5, fault 15: what was written since a size was measured counts.
func TestSizeAfterWriting(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		release(t, mut)
		before := usageByID(t, env)[mut.ID()].Size
		mut, err := env.Manager.GetMutable(ctx, mut.ID())
		require.NoError(t, err)
		require.Zero(t, usageByID(t, env)[mut.ID()].Size, "it is being written")
		testutil.WithMount(t, mut, false, func(dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600))
		})
		release(t, mut)
		require.GreaterOrEqual(t, usageByID(t, env)[mut.ID()].Size, before+1<<20)
		env.Reopen()
		require.GreaterOrEqual(t, usageByID(t, env)[mut.ID()].Size, before+1<<20)
	})
}

// Spec DU-7, scenario S-27, quirks Q18, Q65: DiskUsage changes nothing but remembered sizes.
func TestDiskUsageIsPure(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	for i := range 3 {
		release(t, newMutable(t, env, nil, cache.CachePolicyRetain, cache.WithDescription(fmt.Sprint(i))))
	}
	first := usageByID(t, env)
	require.Equal(t, first, usageByID(t, env))
	items, err := env.Opt.MetadataStore.All()
	require.NoError(t, err)
	require.Len(t, items, 3)
	old, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{AgeLimit: time.Hour})
	require.NoError(t, err)
	require.Empty(t, old, "spec DU-6")
	env.Clock.Advance(2 * time.Hour)
	old, err = env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{AgeLimit: time.Hour, Filter: []string{"mutable,description==1"}})
	require.NoError(t, err)
	require.Len(t, old, 1)
}
