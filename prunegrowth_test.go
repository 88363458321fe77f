package cache_test

import (
	"context"
	"fmt"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// Spec PRN-13, PRN-14, quirk Q70: what pruning half of the records asks of the backend, and how often it looks at records, follows the number of records, whether
// their usage counts are few or all distinct and opposed to time. The plan's own growth is internal/pruneplan's.
func TestGrowthOfAPrune(t *testing.T) {
	for name, count := range map[string]func(i, n int) int{
		"few counts":             func(i, _ int) int { return i % 4 },
		"distinct, against time": func(i, n int) int { return n - i },
	} {
		t.Run(name, func(t *testing.T) {
			var before float64
			for _, n := range []int{256, 768} {
				asked := 0
				env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
					o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
						return checkerFunc(func(string, []digest.Digest) bool { asked++; return false }), nil
					}
				}))
				ids := stand(t, env, n)
				require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
					for i, id := range ids {
						row, err := w.Row(id)
						require.NoError(t, err)
						for key, value := range map[string]int{"cache.lastUsedAt": 1 + i, "cache.usageCount": count(i, n), "snapshot.size": 10} {
							require.NoError(t, row.Set(key, value, ""))
						}
					}
					return nil
				}))
				env.Crash()
				env.Open()
				cache.SetPruneBatch(env.Manager, batch)
				env.Faults.Reset()
				gone := prune(t, env, usage.PruneInfo{MaxUsedSpace: int64(10 * n / 2)})
				require.Len(t, gone, n/2)

				calls, batches := env.Faults.Counts(), n/2/batch
				total := 0
				for _, k := range calls {
					total += k
				}
				each := float64(total) / float64(len(gone))
				t.Logf("%5d records: %d looks, %d transactions of rows, %d of leases, %d leases deleted; %.2f calls for each that goes",
					n, asked, calls[fault.OpDBUpdate], calls[fault.OpTransaction], calls[fault.OpLeaseDelete], each)
				require.Equal(t, n, asked, "each record is looked at once")
				require.Equal(t, batches+1, calls[fault.OpDBUpdate], "marks, with the removals of the batch before")
				require.Equal(t, batches, calls[fault.OpTransaction])
				require.Equal(t, 2*len(gone), calls[fault.OpLeaseDelete], "its own, and the one of a mount")
				require.Zero(t, calls[fault.OpSnapshotUsage], "sizes are known")
				require.Equal(t, 1, calls[fault.OpGarbageCollect])
				require.Less(t, each, 2.2)
				if before > 0 {
					require.Less(t, each/before, 1.01, "grows faster than the number of records")
				}
				before = each
			}
		})
	}
}

// Spec PRN-13, quirk Q70: somebody uses, in the midst of a prune, records that are about to go. For each of them the plan is made anew once at most.
func TestPlansAreMadeAnewOnlyWhenNeeded(t *testing.T) {
	for name, policy := range map[string]usage.PruneInfo{"plain": {}, "budget": {MaxUsedSpace: 1}} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
				o.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
					return checkerFunc(func(string, []digest.Digest) bool { asked++; return false }), nil
				}
			}))
			ids := stand(t, env, threeBatches)
			used := 0
			env.Faults.Inject(fault.Match{Op: fault.OpLeaseDelete, When: fault.Before, Times: 40}, fault.Run(func(_ context.Context, _ testutil.Point) {
				if ref, err := env.Manager.Get(ctx, ids[used*7%len(ids)], nil); err == nil {
					_ = ref.Release(ctx)
				}
				used++
			}))
			require.ElementsMatch(t, ids, prunedIDs(prune(t, env, policy)), fmt.Sprint("used later, but not kept: ", used))
			require.Equal(t, 40, used)
			require.LessOrEqual(t, asked, (2+used)*threeBatches)
			require.Greater(t, asked, threeBatches)
		})
	}
}
