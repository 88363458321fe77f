package cache_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
)

// TestTheSameMergeTwice: records of the very same parents share a snapshot, which is made once, is counted once, and stays until the last
// of them is gone.
func TestTheSameMergeTwice(t *testing.T) { // spec MGR-36, EXT-3, EXT-4, REC-8, issue 5 point 4
	for name, born := range map[string]func(env *testutil.Env, in []cache.ImmutableRef) (cache.ImmutableRef, error){
		"merge": func(env *testutil.Env, in []cache.ImmutableRef) (cache.ImmutableRef, error) {
			return env.Manager.Merge(ctx, in, nil)
		},
		"diff": func(env *testutil.Env, in []cache.ImmutableRef) (cache.ImmutableRef, error) {
			return env.Manager.Diff(ctx, in[0], in[1], nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				in := single(t, env, 2)
				files := map[string]string{"f1": "f1"}
				if name == "merge" {
					files["f0"] = "f0"
				}
				var twins []cache.ImmutableRef
				for range 3 {
					ref, err := born(env, in)
					require.NoError(t, err)
					twins = append(twins, ref)
				}
				turned, err := born(env, refs(in[1], in[0]))
				require.NoError(t, err)
				tree := snapshotOf(t, env, twins[0].ID())
				require.Equal(t, tree, snapshotOf(t, env, twins[1].ID()))
				require.NotEqual(t, tree, snapshotOf(t, env, turned.ID()), "the order counts")
				for _, ref := range twins {
					_, resources := leaseOf(t, env, ref.ID())
					require.Equal(t, []leases.Resource{{ID: tree, Type: "snapshots/" + env.Opt.Snapshotter.Name()}}, resources)
				}

				env.Faults.Reset()
				var wg sync.WaitGroup
				errs := [3]error{}
				for i, ref := range twins {
					wg.Go(func() { errs[i] = ref.Extract(ctx, nil) })
				}
				wg.Wait()
				require.Equal(t, [3]error{}, errs)
				require.Equal(t, 1, commits(env, tree))
				requireCountedOnce(t, env, tree, twins)

				release(t, twins[0])
				require.Len(t, prune(t, env, pruneAll), 1)
				requireCountedOnce(t, env, tree, twins[1:])
				requireFiles(t, twins[2], files)
				loseSnapshotOf(t, env, tree, twins[1:])
				require.NoError(t, twins[1].Extract(ctx, nil))
				require.NoError(t, twins[2].Extract(ctx, nil))
				requireFiles(t, twins[1], files)
				requireFiles(t, twins[2], files)
				ids := idsOf(twins[1:])
				release(t, twins[1], twins[2], turned)
				releaseAll(t, in)
				env.Reopen()
				last := get(t, env, ids[1])
				require.Len(t, prune(t, env, pruneAll), 2, "the other, and the one in the other order")
				requireFiles(t, last, files)
				requireCountedOnce(t, env, tree, refs(last))
				release(t, last)
				prune(t, env, pruneAll)
				require.Empty(t, snapshotNames(t, env))
			})
		})
	}
}

// requireCountedOnce demands that one of the records has the size of the snapshot, and the others none.
func requireCountedOnce(t *testing.T, env *testutil.Env, snap string, sharing []cache.ImmutableRef) {
	t.Helper()
	u, err := snapshot.NewMergeSnapshotter(ctx, env.Opt.Snapshotter, env.Opt.LeaseManager).Usage(ctx, snap)
	require.NoError(t, err)
	var sum int64
	infos := usageByID(t, env)
	for _, ref := range sharing {
		require.Contains(t, []int64{0, u.Size}, infos[ref.ID()].Size)
		sum += infos[ref.ID()].Size
	}
	require.Equal(t, u.Size, sum)
}

// loseSnapshotOf has a snapshot collected that records share and nobody looks at.
func loseSnapshotOf(t *testing.T, env *testutil.Env, snap string, sharing []cache.ImmutableRef) {
	t.Helper()
	lm, r := env.Opt.LeaseManager, leases.Resource{ID: snap, Type: "snapshots/" + env.Opt.Snapshotter.Name()}
	ids := leaseIDs(t, env)
	for _, id := range ids {
		require.NoError(t, lm.DeleteResource(ctx, leaseNamed(id), r))
		require.NoError(t, lm.DeleteResource(ctx, leaseNamed(id), leases.Resource{ID: snap + "-view", Type: r.Type}))
	}
	require.NoError(t, env.GC(ctx))
	require.NotContains(t, snapshotNames(t, env), snap)
	for _, ref := range sharing {
		require.NoError(t, lm.AddResource(ctx, leaseNamed(ref.ID()), r))
	}
}

// randomLayer is a layer of a few changes to a handful of names, which layers thus fight about.
func randomLayer(rng *rand.Rand) []tree.Entry {
	when := func() tree.Opt { return tree.Time(time.Unix(1e9+rng.Int64N(1000), rng.Int64N(1000))) }
	seen, entries := map[string]bool{}, []tree.Entry(nil)
	for range 1 + rng.IntN(4) {
		path := []string{"a", "b", "d", "d/a", "d/e", "d/e/f", "b/a"}[rng.IntN(7)]
		for _, dir := range []string{"d", "d/e", "b"} { // a file of the same layer is in nobody's way
			if len(path) > len(dir) && path[:len(dir)+1] == dir+"/" && !seen[dir] {
				seen[dir] = true
				entries = append(entries, tree.Dir(dir, when()))
			}
		}
		if seen[path] {
			continue
		}
		seen[path] = true
		switch rng.IntN(6) {
		case 0:
			entries = append(entries, tree.Whiteout(path))
		case 1:
			entries = append(entries, tree.Symlink(path, "a", when()))
		case 2, 3:
			entries = append(entries, tree.Dir(path, when()))
		default:
			entries = append(entries, tree.File(path, fmt.Sprint(rng.IntN(1000)), when()))
		}
	}
	return usable(entries)
}

// usable leaves out what a layer cannot have: something below a name that is no directory in it.
func usable(entries []tree.Entry) (out []tree.Entry) {
	dirs := map[string]bool{"": true}
	for _, e := range entries { // directories come before what is in them
		parent := ""
		for i, c := range e.Path {
			if c == '/' {
				parent = e.Path[:i]
			}
		}
		if !dirs[parent] {
			continue
		}
		if out = append(out, e); e.Kind == tree.KindDir {
			dirs[e.Path] = true
		}
	}
	return out
}

// TestRepeatedInputs: leaving out what is applied again later changes nothing. What comes out of Merge is compared with the whole list
// applied one by one.
func TestRepeatedInputs(t *testing.T) { // spec MGR-32, MRG-1, MRG-3, scenario S-32, issue 5 point 4
	for name, rounds := range map[string]int{"doubles": 25, "overlay": 25} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, append([]testutil.Option{testutil.Bare()}, backends[name]...)...)
			r := newRegistry()
			for range rounds {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				rng := rand.New(rand.NewPCG(seed, 5)) //nolint:gosec // a choice of tests
				var layers []cache.ImmutableRef
				for range 5 {
					var below cache.ImmutableRef
					if n := len(layers); n > 0 && rng.IntN(2) == 0 {
						below = layers[rng.IntN(n)]
					}
					layers = append(layers, byBlob(t, env, r, r.layer(t, "", randomLayer(rng)...), below))
				}
				var inputs []cache.ImmutableRef
				for range 3 + rng.IntN(5) {
					inputs = append(inputs, layers[rng.IntN(len(layers))])
				}
				merged := mergeOf(t, env, inputs)
				var got tree.Tree
				testutil.WithMount(t, merged, true, func(dir string) { got = testutil.ReadTree(t, dir) })
				want := mergedOneByOne(t, env, merged)
				except := []tree.Aspect{tree.Root}
				if name == "overlay" { // a directory of which only the time changed is no change (DIF-7), unless its layer serves as it is
					except = append(except, tree.DirTimes)
				}
				require.Empty(t, tree.Diff(want, got, except...), "seed %d", seed)
				releaseAll(t, layers, refs(merged))
				prune(t, env, pruneAll)
			}
		})
	}
}

// mergedOneByOne has the layers of a merge applied one after the other, each onto the whole of what was before.
func mergedOneByOne(t *testing.T, env *testutil.Env, merged cache.ImmutableRef) (got tree.Tree) {
	t.Helper()
	sn := snapshot.NewMergeSnapshotter(ctx, env.Opt.Snapshotter, env.Opt.LeaseManager)
	l, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
	require.NoError(t, err)
	defer func() { require.NoError(t, env.Opt.LeaseManager.Delete(ctx, l)) }()
	leased := leases.WithLease(ctx, l.ID)
	chain := merged.LayerChain()
	defer releaseAll(t, chain)
	var diffs []snapshot.Diff
	for _, layer := range chain {
		if lower := layer.GetString("cache.lowerDiffParent"); lower != "" {
			d := snapshot.Diff{Lower: snapshotOf(t, env, lower)}
			if upper := layer.GetString("cache.upperDiffParent"); upper != "" {
				d.Upper = snapshotOf(t, env, upper)
			}
			diffs = append(diffs, d)
			continue
		}
		require.NoError(t, layer.Extract(ctx, nil))
		snap := snapshotOf(t, env, layer.ID())
		info, err := sn.Stat(ctx, snap)
		require.NoError(t, err)
		diffs = append(diffs, snapshot.Diff{Lower: info.Parent, Upper: snap})
	}
	require.NoError(t, sn.Merge(leased, "one by one "+merged.ID(), diffs))
	view, err := sn.View(leased, "view of "+merged.ID(), "one by one "+merged.ID())
	require.NoError(t, err)
	mounter := snapshot.LocalMounter(view)
	dir, err := mounter.Mount()
	require.NoError(t, err)
	got = testutil.ReadTree(t, dir)
	require.NoError(t, mounter.Unmount())
	return got
}

// TestRepetitionIsLeftOut: how often something is applied can be counted by the views that it takes.
func TestRepetitionIsLeftOut(t *testing.T) { // spec MRG-3, issue 5 point 4
	env := testutil.New(t, testutil.Doubles())
	in := single(t, env, 3)
	views := func(inputs ...cache.ImmutableRef) int {
		merged := mergeOf(t, env, inputs)
		env.Faults.Reset()
		require.NoError(t, merged.Extract(ctx, nil))
		n := env.Faults.Count(fault.OpSnapshotView)
		release(t, merged)
		prune(t, env, pruneAll)
		return n
	}
	once := views(in[0], in[1], in[2])
	require.Equal(t, once, views(in[0], in[1], in[1], in[2], in[2]))
	require.Equal(t, once, views(in[0], in[0], in[1], in[2]))
	require.Equal(t, once, views(in[0], in[1], in[0], in[2]))
	require.Equal(t, once, views(in[0], in[2], in[1], in[2]))
	releaseAll(t, in)
}

// TestMergeBeginsOnAnother: on an overlay a merge that extends another one lies on that one's tree, and is no other for it; what it lies on
// stays when the other goes, and is counted.
func TestMergeBeginsOnAnother(t *testing.T) { // spec MRG-3, SIZE-1, scenario S-32, issue 5 point 4
	for name, begins := range map[string]bool{"doubles": false, "overlay": true} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, backends[name]...)
			in := single(t, env, 5)
			deletes := diffOf(t, env, in[0], nil)
			first := mergeOf(t, env, in[:2])
			longer := mergeOf(t, env, in[:3])
			require.NoError(t, first.Extract(ctx, nil))
			require.NoError(t, longer.Extract(ctx, nil))
			turned := mergeOf(t, env, refs(in[1], in[0], in[2]))
			whole := mergeOf(t, env, append(append(refs(), in...), deletes))
			env.Faults.Reset()
			require.NoError(t, whole.Extract(ctx, nil))
			require.NoError(t, turned.Extract(ctx, nil))
			stat := func(ref cache.ImmutableRef) string {
				info, err := env.Opt.Snapshotter.Stat(ctx, ref.ID())
				require.NoError(t, err)
				return info.Parent
			}
			if begins {
				require.Equal(t, first.ID(), stat(longer))
				require.Equal(t, longer.ID(), stat(whole))
				require.Equal(t, in[1].ID(), stat(turned), "in another order it is another merge")
			}
			requireFiles(t, whole, map[string]string{"f1": "f1", "f2": "f2", "f3": "f3", "f4": "f4"})
			var got tree.Tree
			testutil.WithMount(t, whole, true, func(dir string) { got = testutil.ReadTree(t, dir) })
			require.Empty(t, tree.Diff(mergedOneByOne(t, env, whole), got, tree.Root, tree.DirTimes))

			before := usageByID(t, env)
			release(t, first, longer, turned)
			require.Len(t, prune(t, env, pruneAll), 3)
			after := usageByID(t, env)
			if begins {
				sum := before[first.ID()].Size + before[longer.ID()].Size + before[whole.ID()].Size
				require.Equal(t, sum, after[whole.ID()].Size, "what is left of the others is counted here")
			} else {
				require.Equal(t, before[whole.ID()].Size, after[whole.ID()].Size)
			}
			requireFiles(t, whole, map[string]string{"f1": "f1", "f2": "f2", "f3": "f3", "f4": "f4"})
			id := whole.ID()
			release(t, whole)
			env.Reopen()
			require.Equal(t, after[id].Size, usageByID(t, env)[id].Size)
			again := get(t, env, id)
			requireFiles(t, again, map[string]string{"f1": "f1", "f2": "f2", "f3": "f3", "f4": "f4"})
			release(t, again, deletes)
			releaseAll(t, in)
			prune(t, env, pruneAll)
			require.Empty(t, snapshotNames(t, env))
		})
	}
}

// TestMergesThatGrow one by one do not get deeper and deeper.
func TestMergesThatGrow(t *testing.T) { // fault 38, issue 5 point 4
	env := testutil.New(t, testutil.Overlay(), testutil.Bare())
	in := single(t, env, 40)
	var merges []cache.ImmutableRef
	deepest := 0
	for n := 2; n <= len(in); n++ {
		merged := mergeOf(t, env, in[:n])
		require.NoError(t, merged.Extract(ctx, nil))
		merges = append(merges, merged)
		depth := 0
		for id := merged.ID(); id != ""; depth++ {
			info, err := env.Opt.Snapshotter.Stat(ctx, id)
			require.NoError(t, err)
			id = info.Parent
		}
		deepest = max(deepest, depth)
	}
	require.Greater(t, deepest, 3)
	require.LessOrEqual(t, deepest, 18)
	last := map[string]string{}
	for i := range in {
		last[fmt.Sprint("f", i)] = fmt.Sprint("f", i)
	}
	requireFiles(t, merges[len(merges)-1], last)
	releaseAll(t, in, merges)
}
