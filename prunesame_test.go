package cache_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
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

// forest makes finalized records of all ages and sizes, some on others, the same for the same seed. Each is
// described by its number, and sharedOnes are shared.
func forest(t *testing.T, seed uint64, n int) *testutil.Env {
	t.Helper()
	shared := map[string]bool{}
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
		o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
			return checkerFunc(func(id string, _ []digest.Digest) bool { return shared[id] }), nil
		}
	}))
	rnd := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a choice of tests
	var ids []string
	for i := range n {
		var parent cache.ImmutableRef
		if len(ids) > 0 && rnd.IntN(2) == 0 {
			parent = get(t, env, ids[rnd.IntN(len(ids))], cache.NoUpdateLastUsed)
		}
		ref := finalized(t, env, parent, nil, cache.WithDescription(fmt.Sprint(i)))
		if parent != nil {
			release(t, parent)
		}
		require.NoError(t, env.Double.SetUsage(ctx, ref.ID(), snapshots.Usage{Size: 1 + rnd.Int64N(100)}))
		switch i % 7 {
		case 1:
			require.NoError(t, ref.SetRecordType(usage.TypeInternal))
		case 2:
			require.NoError(t, ref.SetRecordType(usage.TypeGitCheckout))
		case 3:
			shared[ref.ID()] = true
		}
		ids = append(ids, ref.ID())
		release(t, ref)
		for range rnd.IntN(3) {
			env.Clock.Advance(time.Duration(rnd.IntN(100)) * time.Second)
			release(t, get(t, env, ids[rnd.IntN(len(ids))]))
		}
	}
	for i := range n / 3 {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain, cache.WithDescription(fmt.Sprint("mutable ", i)))
		require.NoError(t, env.Double.SetUsage(ctx, mut.ID(), snapshots.Usage{Size: 5}))
		release(t, mut)
	}
	return env
}

// left describes what is left, in order.
func left(t *testing.T, env *testutil.Env) (names []string) {
	t.Helper()
	for _, u := range usageByID(t, env) {
		names = append(names, u.Description)
	}
	slices.Sort(names)
	return names
}

func totalSize(t *testing.T, env *testutil.Env) (total int64) {
	t.Helper()
	for _, u := range usageByID(t, env) {
		if !u.Shared {
			total += u.Size
		}
	}
	return total
}

// Fault 18, spec PRN-6, PRN-12, PRN-19: one pass deletes what many do that ask for the same, or for a little more every time; and
// what is left was not used by any of it, neither in memory nor on disk.
func TestOnePassOrMany(t *testing.T) {
	for seed := range uint64(8) {
		for name, prune1 := range map[string]func(t *testing.T, env *testutil.Env, goal int64, pass, of int) usage.PruneInfo{
			"again": func(_ *testing.T, _ *testutil.Env, goal int64, _, _ int) usage.PruneInfo {
				return usage.PruneInfo{MaxUsedSpace: goal}
			},
			"bit by bit": func(t *testing.T, env *testutil.Env, goal int64, pass, of int) usage.PruneInfo {
				have := totalSize(t, env)
				return usage.PruneInfo{MaxUsedSpace: max(goal, goal+(have-goal)*int64(of-pass-1)/int64(of))}
			},
			"all that may go": func(*testing.T, *testutil.Env, int64, int, int) usage.PruneInfo { return usage.PruneInfo{} },
		} {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				one, many := forest(t, seed, 24), forest(t, seed, 24)
				before := usageByID(t, one)
				goal := totalSize(t, one) / 2
				const passes = 4
				require.NotEmpty(t, prune(t, one, prune1(t, one, goal, passes-1, passes)))
				for pass := range passes {
					prune(t, many, prune1(t, many, goal, pass, passes))
				}
				require.Equal(t, left(t, one), left(t, many))
				require.NotEmpty(t, left(t, one))
				require.NoError(t, one.Opt.MetadataStore.Flush())
				for range 2 {
					for id, u := range usageByID(t, one) {
						require.Equal(t, before[id].LastUsedAt, u.LastUsedAt)
						require.Equal(t, before[id].UsageCount, u.UsageCount)
					}
					one.Reopen()
				}
			})
		}
	}
}

// Fault 19, spec FLT-2, PRN-10: a filter means the same to DiskUsage and to Prune, with every field there is.
func TestSameFilterSameRecords(t *testing.T) {
	for _, filter := range [][]string{
		{"id!=none"},
		{"parents"},
		{"!parents"},
		{"description==13"},
		{"description~=^1"},
		{"type==internal"},
		{"type==regular,mutable"},
		{"mutable"},
		{"immutable"},
		{"shared"},
		{"private"},
		{"inuse"},
		{"immutable,description~=2$"},
		{"mutable", "type==source.git.checkout"},
	} {
		t.Run(fmt.Sprint(filter), func(t *testing.T) {
			env := forest(t, 3, 14)
			infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Filter: filter})
			if filter[0] == "!parents" { // no operator of the language: both say so
				require.True(t, errdefs.IsInvalidArgument(err))
				require.True(t, errdefs.IsInvalidArgument(env.Manager.Prune(ctx, nil, usage.PruneInfo{All: true, Filter: filter})))
				return
			}
			require.NoError(t, err)
			matching, lainOn := map[string]bool{}, map[string]bool{}
			all := usageByID(t, env)
			for _, u := range infos {
				matching[u.ID] = true
			}
			for _, u := range all {
				for _, p := range u.Parents {
					lainOn[p] = lainOn[p] || !matching[u.ID]
				}
			}
			for changed := true; changed; { // what stays keeps its ancestors
				changed = false
				for _, u := range all {
					for _, p := range u.Parents {
						if lainOn[u.ID] && !lainOn[p] {
							lainOn[p], changed = true, true
						}
					}
				}
			}
			var want []string
			for id := range matching {
				if !lainOn[id] {
					want = append(want, id)
				}
			}
			require.ElementsMatch(t, want, prunedIDs(prune(t, env, usage.PruneInfo{All: true, Filter: filter})))
			if filter[0] != "inuse" {
				require.NotEmpty(t, want)
			}
		})
	}
}

// Quirk Q68, spec PRN-4, PRN-6: neither a size that cannot be known nor a shared record, which is no part of the total, counts
// for the budget, and no size is negative.
func TestUnknownAndSharedSizesAreNoBudget(t *testing.T) {
	shared := map[string]bool{}
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
		o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
			return checkerFunc(func(id string, _ []digest.Digest) bool { return shared[id] }), nil
		}
	}))
	big := sized(t, env, 1000)
	shared[big.ID()] = true
	unknown := sized(t, env, 500)
	var small []string
	for range 3 {
		env.Clock.Advance(time.Minute)
		ref := sized(t, env, 10)
		release(t, get(t, env, ref.ID()))
		small = append(small, ref.ID())
	}
	gone := env.Faults.Inject(fault.Match{Op: fault.OpSnapshotUsage, Key: unknown.ID(), When: fault.Before}, fault.Fail(errdefs.ErrNotFound))
	infos := prune(t, env, usage.PruneInfo{All: true, Filter: []string{"immutable"}, MaxUsedSpace: 15})
	gone.Remove()
	sizes := map[string]int64{}
	for _, info := range infos {
		sizes[info.ID] = info.Size
	}
	require.Equal(t, map[string]int64{big.ID(): 1000, unknown.ID(): 0, small[0]: 10, small[1]: 10}, sizes)
	requireUsage(t, env, 0, 1)
}
