package cache_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// asIf is the same list of policies, to be tried only.
func asIf(policies ...usage.PruneInfo) []usage.PruneInfo {
	out := make([]usage.PruneInfo, len(policies))
	for i, p := range policies {
		p.DryRun = true
		out[i] = p
	}
	return out
}

// Fault 20, spec PRN-1, PRN-5, PRN-12: a dry run reports what the run then deletes, in the same order and with the same sizes, for several
// policies in a row, too; and changes nothing, on disk neither.
func TestDryRunIsTheRun(t *testing.T) {
	for seed := range uint64(6) {
		for name, policies := range map[string][]usage.PruneInfo{
			"plain":         {{}},
			"all":           {{All: true}},
			"budget":        {{MaxUsedSpace: 300}},
			"never enough":  {{MinFreeSpace: math.MaxInt64 / 2, ReservedSpace: 100}},
			"several":       {{Filter: []string{"type==source.git.checkout"}}, {MaxUsedSpace: 500}, {All: true, MaxUsedSpace: 200}},
			"young ones":    {{KeepDuration: 200 * time.Second}, {All: true, Filter: []string{"shared"}}},
			"kept bytes":    {{KeepBytes: 250}},
			"nothing at al": {{Filter: []string{"id==none"}}},
		} {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				env := forest(t, seed, 24)
				before, rows := usageByID(t, env), rowCount(t, env)
				env.Faults.Reset()
				want := prune(t, env, asIf(policies...)...)
				for _, call := range env.Faults.Trace() {
					require.NotContains(t, call.String(), "Delete")
				}
				require.Equal(t, before, usageByID(t, env))
				require.Equal(t, rows, rowCount(t, env))
				require.Equal(t, want, prune(t, env, policies...))
			})
		}
	}
}

// Spec PRN-2, OLD-1: policies that contradict themselves, or each other, are refused before anything is deleted.
func TestContradictoryPolicies(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	ref := sized(t, env, 10)
	for name, policies := range map[string][]usage.PruneInfo{
		"two reserves":       {{}, {KeepBytes: 1, ReservedSpace: 2}},
		"negative KeepBytes": {{}, {KeepBytes: -1}},
		"some in earnest":    {{}, {DryRun: true}},
		"some as if":         {{DryRun: true}, {}},
	} {
		err := env.Manager.Prune(ctx, nil, policies...)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		_, err = env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Policies: policies})
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
	}
	require.Contains(t, usageByID(t, env), ref.ID())
	require.Empty(t, prune(t, env, usage.PruneInfo{KeepBytes: 10}), "it means ReservedSpace")
	require.Empty(t, prune(t, env, usage.PruneInfo{KeepBytes: 10, ReservedSpace: 10}))
	require.Len(t, prune(t, env, usage.PruneInfo{KeepBytes: 9}), 1)
}

// TestVerdicts: every record says why each policy would leave it alone, up to the one that would delete it.
func TestVerdicts(t *testing.T) { // spec PRN-7 to PRN-10, issue 7 point 4
	env := testutil.New(t, testutil.Doubles())
	internal, pinned, old := sized(t, env, 1), sized(t, env, 1), sized(t, env, 5)
	require.NoError(t, internal.SetRecordType(usage.TypeInternal))
	require.NoError(t, pinned.SetPinned(true))
	base := finalized(t, env, nil, nil)
	above := finalized(t, env, base, nil)
	require.NoError(t, above.SetPinned(true))
	below := finalized(t, env, nil, nil)
	spared := finalized(t, env, below, nil)
	require.NoError(t, spared.SetRecordType(usage.TypeFrontend))
	held := finalized(t, env, nil, nil)
	release(t, base, above, below, spared)
	env.Clock.Advance(time.Hour)
	young := sized(t, env, 5)
	release(t, get(t, env, young.ID()))

	verdicts := func(policies ...usage.PruneInfo) map[string]*usage.Verdict {
		infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Policies: policies})
		require.NoError(t, err)
		out := map[string]*usage.Verdict{}
		for _, u := range infos {
			out[u.ID] = u.Verdict
		}
		return out
	}
	why := func(reasons ...usage.Reason) *usage.Verdict {
		return &usage.Verdict{Pruned: reasons[len(reasons)-1] == usage.ReasonPruned, Reasons: reasons}
	}
	require.Equal(t, map[string]*usage.Verdict{
		internal.ID(): why(usage.ReasonProtectedType, usage.ReasonProtectedType),
		pinned.ID():   why(usage.ReasonPinned, usage.ReasonPinned),
		old.ID():      why(usage.ReasonPruned),
		base.ID():     why(usage.ReasonPinned, usage.ReasonFiltered),
		above.ID():    why(usage.ReasonPinned, usage.ReasonPinned),
		below.ID():    why(usage.ReasonParent, usage.ReasonFiltered),
		spared.ID():   why(usage.ReasonProtectedType, usage.ReasonProtectedType),
		held.ID():     why(usage.ReasonInUse, usage.ReasonInUse),
		young.ID():    why(usage.ReasonTooYoung, usage.ReasonPruned),
	}, verdicts(usage.PruneInfo{KeepDuration: time.Minute}, usage.PruneInfo{Filter: []string{"id==" + young.ID()}}))
	require.Equal(t, why(usage.ReasonWithinBudget), verdicts(usage.PruneInfo{MaxUsedSpace: 1 << 20})[young.ID()])
	require.Equal(t, []string{old.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{KeepDuration: time.Minute})))
	release(t, held)
}

// TestPins: what is pinned stays, with all it lies on, whatever a policy says, and over a restart.
func TestPins(t *testing.T) { // spec PRN-7, MV-1, issue 7 point 4
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := finalized(t, env, nil, fileIn(t, "a", "1"))
		child := finalized(t, env, base, fileIn(t, "b", "2"))
		pair := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		require.False(t, child.Pinned())
		require.NoError(t, child.SetPinned(true))
		mut, ok := pair.GetEqualMutable()
		require.True(t, ok)
		require.NoError(t, mut.SetPinned(true), "either name will do")
		release(t, base, child, pair)
		require.Empty(t, prune(t, env, pruneAll))
		require.Empty(t, prune(t, env, usage.PruneInfo{All: true, MinFreeSpace: math.MaxInt64 / 2}))
		env.Reopen()
		require.Empty(t, prune(t, env, pruneAll))
		again := get(t, env, child.ID(), cache.NoUpdateLastUsed)
		require.True(t, again.Pinned())
		require.NoError(t, again.SetPinned(false))
		release(t, again)
		require.Equal(t, []string{child.ID(), base.ID()}, prunedIDs(prune(t, env, pruneAll)))
	})
}

type scorer func(usage.Info) float64

func (s scorer) Score(u usage.Info) float64 { return s(u) }

// TestScorer: an engine's own weights decide which go first.
func TestScorer(t *testing.T) { // issue 7 point 4
	byOf := func(weight func(usage.Info) float64) *testutil.Env {
		return testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.PruneScorer = scorer(weight) }))
	}
	env := byOf(func(u usage.Info) float64 { return -float64(u.Size) })
	small, large, medium := sized(t, env, 1), sized(t, env, 100), sized(t, env, 10)
	require.Equal(t, []string{large.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{MaxUsedSpace: 50})))
	require.Equal(t, []string{medium.ID()}, prunedIDs(prune(t, env, usage.PruneInfo{MaxUsedSpace: 5})))
	require.Contains(t, usageByID(t, env), small.ID())

	env = byOf(func(usage.Info) float64 { return math.NaN() })
	sized(t, env, 1)
	sized(t, env, 1)
	err := env.Manager.Prune(ctx, nil, usage.PruneInfo{MaxUsedSpace: 1})
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	requireUsage(t, env, 0, 2)
}

// TestWalkUsage tells the same as DiskUsage, one by one, and ends when it is told to.
func TestWalkUsage(t *testing.T) { // spec DU-6, DU-8
	env := forest(t, 1, 24)
	walked := map[string]*usage.Info{}
	require.NoError(t, env.Manager.WalkUsage(ctx, usage.DiskUsageInfo{}, func(u *usage.Info) error {
		walked[u.ID] = u
		_, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
		return err
	}))
	require.Equal(t, usageByID(t, env), walked)
	enough := fmt.Errorf("enough")
	n := 0
	require.ErrorIs(t, env.Manager.WalkUsage(ctx, usage.DiskUsageInfo{}, func(*usage.Info) error { n++; return enough }), enough)
	require.Equal(t, 1, n)
}
