package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// stored sums up what the backend holds after a collection: all blobs, and all snapshots that are no views.
func stored(t *testing.T, env *testutil.Env) (total int64) {
	t.Helper()
	_, err := env.Opt.GarbageCollect(ctx)
	require.NoError(t, err)
	require.NoError(t, env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
		total += info.Size
		return nil
	}))
	var names []string
	require.NoError(t, env.Opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindView {
			names = append(names, info.Name)
		}
		return nil
	}))
	for _, name := range names {
		u, err := env.Opt.Snapshotter.Usage(ctx, name)
		require.NoError(t, err)
		total += u.Size
	}
	return total
}

// requireAccounted requires that the sizes of all records sum up to what the backend holds.
func requireAccounted(t *testing.T, env *testutil.Env, what string) {
	t.Helper()
	want, sum := stored(t, env), int64(0)
	infos := usageByID(t, env)
	for _, u := range infos {
		sum += u.Size
	}
	require.Equal(t, want, sum, "%s: %v", what, infos)
}

// pruneOnly deletes one record, and requires that as much was reported to come free as did.
func pruneOnly(t *testing.T, env *testutil.Env, id string) {
	t.Helper()
	before := stored(t, env)
	infos := prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + id}})
	require.Len(t, infos, 1)
	require.Equal(t, before-stored(t, env), infos[0].Size, "what came free with %s", id)
	requireAccounted(t, env, "without "+id)
}

// Fault 14, spec SIZE-6, MGR-29, quirk Q24: what several records own is counted once, and stays counted as long as one of them is there:
// a layer in two compressions, on one base and on another.
func TestSharedThingsAreCountedOnce(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				files := []tree.Entry{tree.File("f", "the same in both")}
				left, right := byBlob(t, env, r, r.layer(t, "gzip", tree.File("left", "1")), nil), byBlob(t, env, r, r.layer(t, "gzip", tree.File("right", "2")), nil)
				gz, zs := r.layer(t, "gzip", files...), r.layer(t, "zstd", files...)
				tops := []cache.ImmutableRef{byBlob(t, env, r, gz, left), byBlob(t, env, r, zs, left), byBlob(t, env, r, gz, right)}
				requireAccounted(t, env, "nothing is here yet")
				for i, top := range tops {
					_, err := top.FileList(ctx, nil)
					require.NoError(t, err)
					requireAccounted(t, env, fmt.Sprint("blob of ", i))
				}
				for i, top := range tops {
					require.NoError(t, top.Extract(ctx, nil))
					requireAccounted(t, env, fmt.Sprint("tree of ", i))
				}
				ids := idsOf(tops)
				releaseAll(t, tops, refs(left, right))
				env.Reopen()
				requireAccounted(t, env, "after a start")
				for _, i := range order {
					pruneOnly(t, env, ids[i])
				}
			})
		})
	}
}

// Spec SIZE-1, VAR-3, scenario S-19: compressions of a blob are counted with it, once for all who have them, also when those who made them are gone.
func TestVariantsAreCountedOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layer := finalized(t, env, nil, fileIn(t, "f", "some text, some text, some text"))
		first := export(t, layer, as(codec.Gzip))
		requireAccounted(t, env, "one blob")
		export(t, layer, forced(codec.Zstd))
		export(t, layer, forced(codec.Uncompressed))
		requireAccounted(t, env, "three blobs")

		base := finalized(t, env, nil, fileIn(t, "base", "x"))
		export(t, base, as(codec.Gzip))
		other, err := env.Manager.GetByBlob(ctx, first.Descriptors[0], base)
		require.NoError(t, err)
		requireAccounted(t, env, "another owner")
		export(t, other, forced(codec.Zstd))
		requireAccounted(t, env, "which has it in another form, too")
		ids := []string{layer.ID(), other.ID(), base.ID()}
		release(t, layer, other, base)
		for _, id := range ids {
			prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + id}})
			requireAccounted(t, env, "without "+id)
		}
		require.Zero(t, stored(t, env))
	})
}

// Fault 15, spec PRN-4, PRN-16: whatever is done, the sum of all sizes is what is there, and what a prune reports is what came free.
func TestSumOfRandomOperations(t *testing.T) {
	for _, backend := range []string{"native", "overlay"} {
		opts, ok := backends[backend]
		require.True(t, ok)
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", backend, seed), func(t *testing.T) {
				a := &accountant{t: t, env: testutil.New(t, opts...), r: newRegistry(), rnd: rand.New(rand.NewPCG(seed, 7))} //nolint:gosec // a choice of tests
				for range 40 {
					a.step()
				}
				releaseAll(t, a.held)
				a.held = nil
				requireAccounted(t, a.env, "at the end")
				for len(usageByID(t, a.env)) > 0 {
					a.prune()
				}
				require.Zero(t, stored(t, a.env))
			})
		}
	}
}

// accountant does one thing after the other.
type accountant struct {
	t    *testing.T
	env  *testutil.Env
	r    *registry
	rnd  *rand.Rand
	held []cache.ImmutableRef
	n    int
}

// any returns one of the refs that are held; nil sometimes, and if there are none.
func (a *accountant) any() cache.ImmutableRef {
	if len(a.held) == 0 || a.rnd.IntN(4) == 0 {
		return nil
	}
	return a.held[a.rnd.IntN(len(a.held))]
}

func (a *accountant) keep(ref cache.ImmutableRef, err error) {
	require.NoError(a.t, err)
	if ref != nil {
		a.held = append(a.held, ref)
	}
}

func (a *accountant) step() {
	a.n++
	what := ""
	switch k := a.rnd.IntN(9); {
	case k < 2:
		what = "new"
		a.keep(finalized(a.t, a.env, a.any(), fileIn(a.t, fmt.Sprint("f", a.n), fmt.Sprint("text ", a.n))), nil)
	case k < 4: // few contents, so that layers meet
		what = "by blob"
		a.byBlob()
	case k < 5:
		what = "merge"
		a.keep(a.env.Manager.Merge(ctx, []cache.ImmutableRef{a.any(), a.any(), a.any()}, nil))
	case k < 6 && len(a.held) > 0:
		what = "diff"
		a.keep(a.env.Manager.Diff(ctx, a.held[a.rnd.IntN(len(a.held))], a.any(), nil))
	case k < 7 && len(a.held) > 0:
		what = "export"
		cfgs := []remote.RefConfig{forced(codec.Gzip), forced(codec.Zstd), as(codec.Uncompressed)}
		export(a.t, a.held[a.rnd.IntN(len(a.held))], cfgs[a.rnd.IntN(len(cfgs))])
	case len(a.held) > 0:
		what = "extract"
		require.NoError(a.t, a.held[a.rnd.IntN(len(a.held))].Extract(ctx, nil))
	}
	requireAccounted(a.t, a.env, fmt.Sprintf("step %d, %s", a.n, what))
	if a.rnd.IntN(4) == 0 && len(a.held) > 3 {
		i := a.rnd.IntN(len(a.held))
		require.NoError(a.t, a.held[i].Release(ctx))
		a.held = slices.Delete(a.held, i, i+1)
		a.prune()
	}
}

func (a *accountant) byBlob() {
	kind := []string{"", "gzip", "zstd"}[a.rnd.IntN(3)]
	desc := a.r.layer(a.t, kind, tree.File(fmt.Sprint("blob", a.rnd.IntN(3)), "from afar"))
	var parent cache.ImmutableRef
	if p := a.any(); p != nil && p.GetString("cache.chainID") != "" {
		parent = p
	}
	ref, err := a.env.Manager.GetByBlob(ctx, desc, parent, a.r.handlers(desc), a.r.allHandlers())
	a.keep(ref, err)
	if a.rnd.IntN(2) == 0 {
		_, err := ref.FileList(ctx, nil)
		require.NoError(a.t, err)
	}
}

// prune deletes one record that nobody holds.
func (a *accountant) prune() {
	before := stored(a.t, a.env)
	infos, err := a.env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Policies: []usage.PruneInfo{{All: true}}})
	require.NoError(a.t, err)
	var ids []string
	for _, u := range infos {
		if u.Verdict.Pruned {
			ids = append(ids, u.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	gone := prune(a.t, a.env, usage.PruneInfo{All: true, Filter: []string{"id==" + ids[a.rnd.IntN(len(ids))]}})
	var freed int64
	for _, u := range gone {
		freed += u.Size
	}
	require.LessOrEqual(a.t, freed, before-stored(a.t, a.env)+a.variantsLeft(), "%v", gone)
	requireAccounted(a.t, a.env, fmt.Sprintf("after a prune of %v", gone))
}

// variantsLeft is how much a report may be more than what came free: other forms of a blob that links still keep.
func (a *accountant) variantsLeft() (size int64) {
	require.NoError(a.t, a.env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
		if info.Labels["buildkit.io/blob/mediatype"] != "" {
			size += info.Size
		}
		return nil
	}))
	return size
}
