package cache_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// Fault 28, quirk Q64, spec INIT-2, INIT-7, DU-3: whatever is missing or makes no sense in the database or behind the manager's back,
// DiskUsage answers, with sums that are none of them negative, and a Prune gets through.
func TestDiskUsageWhateverIsMissing(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			env := forest(t, seed, 10)
			pair := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
			release(t, pair)
			require.NoError(t, env.Opt.MetadataStore.Flush())
			rnd := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // a choice of tests
			for range 1 + rnd.IntN(6) {
				damage(t, env, rnd)
			}
			requireSound(t, env)
			env.Crash()
			env.Open()
			requireSound(t, env)
			_, err := pruneResult(env, usage.PruneInfo{All: true})
			require.NoError(t, err)
			requireSound(t, env)
			require.NoError(t, env.Close()) // rows that contradict themselves stay, and Check would say so
		})
	}
}

// damage takes something away, or sets something to nonsense.
func damage(t *testing.T, env *testutil.Env, rnd *rand.Rand) {
	t.Helper()
	items, err := env.Opt.MetadataStore.All()
	require.NoError(t, err)
	if len(items) == 0 {
		return
	}
	item := items[rnd.IntN(len(items))]
	keys := item.Keys()
	key := keys[rnd.IntN(len(keys))]
	switch rnd.IntN(5) {
	case 0:
		require.NoError(t, env.Opt.MetadataStore.Clear(item.ID()))
	case 1:
		editRow(t, env, item.ID(), map[string]any{key: nil})
	case 2:
		nonsense := []any{-1, "none", true, []string{"a", "b"}, map[string]int{}}
		editRow(t, env, item.ID(), map[string]any{key: nonsense[rnd.IntN(len(nonsense))]})
	case 3:
		other := items[rnd.IntN(len(items))].ID() // itself, too
		refers := []string{"cache.parent", "cache.equalMutable", "cache.lowerDiffParent", "cache.snapshot"}
		editRow(t, env, item.ID(), map[string]any{refers[rnd.IntN(len(refers))]: other})
	case 4:
		if err := env.Double.LoseSnapshot(item.ID()); !errdefs.IsNotFound(err) {
			require.NoError(t, err)
		}
	}
}

func requireSound(t *testing.T, env *testutil.Env) {
	t.Helper()
	infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, u := range infos {
		require.False(t, seen[u.ID], "twice")
		seen[u.ID] = true
		require.GreaterOrEqual(t, u.Size, int64(0))
	}
}

// Quirk Q44, spec SIZE-4, DU-5: a size that was measured while something was written is not kept.
func TestSizeMeasuredWhileWritten(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		id := mut.ID()
		release(t, mut)
		block := env.Faults.Block(fault.Match{Op: fault.OpSnapshotUsage, When: fault.After})
		measured := make(chan error, 1)
		go func() {
			_, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
			measured <- err
		}()
		<-block.Entered()
		mut, err := env.Manager.GetMutable(ctx, id)
		require.NoError(t, err)
		testutil.WithMount(t, mut, false, fileIn(t, "big", string(make([]byte, 1<<20))))
		release(t, mut)
		block.Release()
		require.NoError(t, <-measured)
		require.NoError(t, env.Opt.MetadataStore.Flush())
		var stored int64
		require.NoError(t, env.Opt.MetadataStore.ReadRow(id, func(view metadata.RowView) error {
			return view.Each(func(key []byte, v metadata.RawValue) error {
				if string(key) == "snapshot.size" {
					_, err := fmt.Sscan(string(v.Raw()), &stored)
					return err
				}
				return nil
			})
		}))
		require.EqualValues(t, -1, stored)
		require.GreaterOrEqual(t, usageByID(t, env)[id].Size, int64(1<<20))
	})
}
