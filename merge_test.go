package cache_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// mergeOf merges refs; the test's cleanup wants the result released.
func mergeOf(t testing.TB, env *testutil.Env, parents []cache.ImmutableRef, opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	ref, err := env.Manager.Merge(ctx, parents, nil, opts...)
	require.NoError(t, err)
	require.NotNil(t, ref)
	return ref
}

func refs(list ...cache.ImmutableRef) []cache.ImmutableRef { return list }

// single makes n finalized layers without parents; each has one file, named "f0", "f1", and so on.
func single(t testing.TB, env *testutil.Env, n int) []cache.ImmutableRef {
	t.Helper()
	out := make([]cache.ImmutableRef, n)
	for i := range out {
		name := fmt.Sprint("f", i)
		out[i] = testutil.MakeLayer(t, env, nil, fileIn(t, name, name))
		require.NoError(t, out[i].Finalize(ctx))
	}
	return out
}

// requireFiles mounts a ref read-only and compares all of its files.
func requireFiles(t testing.TB, ref cache.Mountable, want map[string]string) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(dir string) { require.Equal(t, want, readFiles(t, dir)) })
}

// parentsOf returns what DiskUsage says of a record's parents.
func parentsOf(t *testing.T, env *testutil.Env, id string) []string {
	t.Helper()
	return usageByID(t, env)[id].Parents
}

func idsOf(list []cache.ImmutableRef) []string {
	out := make([]string, len(list))
	for i, ref := range list {
		out[i] = ref.ID()
	}
	return out
}

func releaseAll(t testing.TB, lists ...[]cache.ImmutableRef) {
	t.Helper()
	for _, list := range lists {
		require.NoError(t, cache.RefList(list).Release(ctx))
	}
}

// TestMergeOfNothing: without any parent there is no merge, and no error, whatever type the missing parents have.
func TestMergeOfNothing(t *testing.T) { // spec MGR-31, API-2, quirk Q01
	env := testutil.New(t, testutil.Doubles())
	own := testutil.MakeLayer(t, env, nil, nil)
	typed := nilOf(own)
	for name, parents := range map[string][]cache.ImmutableRef{
		"none": nil, "empty": {}, "nil": {nil, nil}, "typed nil": {typed}, "foreign nil": {(*foreignPointer)(nil), nil, typed},
	} {
		ref, err := env.Manager.Merge(ctx, parents, nil)
		require.NoError(t, err, name)
		require.True(t, ref == nil, name)
	}
	kept := mergeOf(t, env, refs(nil, own, typed))
	require.Equal(t, own.ID(), kept.ID())
	release(t, own, kept)
}

// nilOf returns the nil ref of a ref's type.
func nilOf(ref cache.ImmutableRef) cache.ImmutableRef {
	none, _ := reflect.Zero(reflect.TypeOf(ref)).Interface().(cache.ImmutableRef)
	return none
}

type foreignPointer struct{ cache.ImmutableRef }

// TestMergeOfOne is another ref to the very same record: it changes nothing, and its end is no use.
func TestMergeOfOne(t *testing.T) { // spec MGR-33, REF-2, REF-3, scenario S-13, quirk Q78
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		handlers := cache.DescHandlers{digest.FromString("x"): {Ref: "x"}}
		first, second := &progressLog{}, &progressLog{}
		layer := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "text"), cache.CachePolicyRetain, cache.WithDescription("layer"))
		id := layer.ID()
		mut, ok := layer.GetEqualMutable()
		require.True(t, ok)
		release(t, layer)
		layer, err := env.Manager.Get(ctx, id, first, handlers, cache.NoUpdateLastUsed)
		require.NoError(t, err)
		before := usageByID(t, env)

		env.Faults.Reset()
		kept, err := env.Manager.Merge(ctx, refs(layer), nil, cache.WithDescription("merge"), cache.WithRecordType(usage.TypeInternal))
		require.NoError(t, err)
		shown, err := env.Manager.Merge(ctx, refs(nil, layer), second)
		require.NoError(t, err)
		require.Zero(t, env.Faults.Len(), "nothing is written: %s", env.Faults.Trace())
		for _, ref := range refs(kept, shown) {
			require.Equal(t, id, ref.ID())
			require.Equal(t, "layer", ref.GetDescription())
			require.Same(t, handlers[digest.FromString("x")], ref.DescHandler(digest.FromString("x")))
			equal, ok := ref.GetEqualMutable()
			require.True(t, ok, "it is not finalized")
			require.Equal(t, mut.ID(), equal.ID())
		}
		requireUsage(t, env, 1, 0)
		release(t, layer, kept, shown)
		after := usageByID(t, env)
		require.Equal(t, before[id].UsageCount, after[mut.ID()].UsageCount)
	})
}

// TestProgressOfMergeOfOne: the controller that is given replaces the ref's own, and none replaces nothing.
func TestProgressOfMergeOfOne(t *testing.T) { // spec MGR-33, quirk Q78
	env := testutil.New(t, testutil.Doubles())
	layers := single(t, env, 2)
	first, second := &progressLog{}, &progressLog{}
	merged, err := env.Manager.Diff(ctx, layers[0], layers[1], first)
	require.NoError(t, err)
	kept, err := env.Manager.Merge(ctx, refs(merged), nil)
	require.NoError(t, err)
	require.NoError(t, kept.Extract(ctx, nil))
	statuses, _ := first.take(t)
	require.Equal(t, []string{"diffing"}, statuses)
	loseSnapshot(t, env, merged.ID())
	shown, err := env.Manager.Merge(ctx, refs(merged), second)
	require.NoError(t, err)
	require.NoError(t, shown.Extract(ctx, nil))
	statuses, _ = first.take(t)
	require.Empty(t, statuses)
	statuses, _ = second.take(t)
	require.Equal(t, []string{"diffing"}, statuses)
	releaseAll(t, layers, refs(merged, kept, shown))
}

// TestMergeOfMany is made of its parents, finalizes them, has no snapshot before somebody needs it, and keeps them.
func TestMergeOfMany(t *testing.T) { // scenario S-13, S-33, spec MGR-32, MGR-34, MGR-35, MGR-36, DU-2, DU-3, REC-4, REC-8, MRG-6, SIZE-5, quirk Q35
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layers := single(t, env, 6)
		sealed := testutil.MakeLayer(t, env, nil, fileIn(t, "sealed", "sealed"))
		env.Faults.Reset()
		merged := mergeOf(t, env, refs(layers[0], sealed, layers[2]))
		require.Zero(t, env.Faults.Count(fault.OpSnapshotPrepare)+env.Faults.Count(fault.OpSnapshotView))
		_, pair := sealed.GetEqualMutable()
		require.False(t, pair, "parents are finalized")
		_, pair = merged.GetEqualMutable()
		require.False(t, pair)
		_, err := env.Manager.GetMutable(ctx, merged.ID())
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		require.NotContains(t, snapshotNames(t, env), merged.ID())
		l, resources := leaseOf(t, env, merged.ID())
		require.NotNil(t, l)
		require.Contains(t, l.Labels, "containerd.io/gc.flat")
		require.Equal(t, merged.ID(), resources[0].ID)
		require.Len(t, resources, 1)
		requireRow(t, env, merged.ID(), map[string]any{
			"cache.mergeParents": []any{layers[0].ID(), sealed.ID(), layers[2].ID()}, "cache.snapshot": merged.ID(),
			"snapshot.committed": true, "cache.parent": nil, "cache.blobonly": nil, "snapshot.size": nil,
		})
		require.Zero(t, usageByID(t, env)[merged.ID()].Size)
		requireRow(t, env, merged.ID(), map[string]any{"snapshot.size": nil})
		require.Equal(t, []string{layers[0].ID(), sealed.ID(), layers[2].ID()}, parentsOf(t, env, merged.ID()))
		requireUsage(t, env, 8, 0)

		other := mergeOf(t, env, refs(layers[3], layers[4], layers[3]))
		both := mergeOf(t, env, refs(merged, other, layers[5]))
		require.Equal(t, []string{
			layers[0].ID(), sealed.ID(), layers[2].ID(), layers[3].ID(), layers[4].ID(), layers[3].ID(), layers[5].ID(),
		}, parentsOf(t, env, both.ID()), "merges are flattened, and what is repeated stays so")
		again := mergeOf(t, env, refs(merged, other, layers[5]))
		require.NotEqual(t, both.ID(), again.ID(), "no record is reused")

		release(t, merged, other, again)
		releaseAll(t, layers, refs(sealed))
		prune(t, env, usage.PruneInfo{All: true})
		requireUsage(t, env, 7, 0) // five layers of one file each, the sealed one, and the merge
		requireFiles(t, both, map[string]string{"f0": "f0", "sealed": "sealed", "f2": "f2", "f3": "f3", "f4": "f4", "f5": "f5"})
		release(t, both)
		requireUsage(t, env, 0, 7)
		prune(t, env, usage.PruneInfo{All: true})
		requireUsage(t, env, 0, 0)
		require.Empty(t, leaseIDs(t, env))
		require.Empty(t, snapshotNames(t, env))
	})
}

// TestSizeOfMerge: what is hard-linked into a merge is not counted again, and before it is made it has no size.
func TestSizeOfMerge(t *testing.T) { // scenario S-13, S-27, S-33, spec MRG-5, MRG-6, SIZE-1, SIZE-4, SIZE-5, quirk Q35
	for _, name := range []string{"doubles", "native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, backends[name]...)
			layers := single(t, env, 3)
			merged := mergeOf(t, env, layers)
			require.Zero(t, usageByID(t, env)[merged.ID()].Size)
			env.Reopen()
			merged = get(t, env, merged.ID())
			require.Zero(t, usageByID(t, env)[merged.ID()].Size, "it is still unknown")
			require.NoError(t, merged.Extract(ctx, nil))
			size := usageByID(t, env)[merged.ID()].Size
			info, err := env.Opt.Snapshotter.Stat(ctx, merged.ID())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(size), info.Labels["buildkit.mergeUsageSize"])
			require.Less(t, size, usageByID(t, env)[layers[0].ID()].Size, "one directory is less than a directory with a file")
			release(t, merged)
		})
	}
}

// TestOptionsOfMergesAndDiffs: those that say what a record is are honoured, also by the merge that stands for a diff; those about layers
// from images are not.
func TestOptionsOfMergesAndDiffs(t *testing.T) { // spec OPT-4, OPT-5, MGR-34, MGR-38, MGR-39, section 0.5, quirk Q25
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		created := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
		opts := []cache.RefOption{
			cache.WithDescription("mine"), cache.WithRecordType(usage.TypeFrontend), cache.WithCreationTime(created),
			cache.CachePolicyRetain, cache.WithImageRef("registry.test/image"), cache.NoUpdateLastUsed,
		}
		chain := chainOfThree(t, env)
		for name, do := range map[string]func(opts ...cache.RefOption) (cache.ImmutableRef, error){
			"merge": func(opts ...cache.RefOption) (cache.ImmutableRef, error) {
				return env.Manager.Merge(ctx, refs(chain[2], chain[0]), nil, opts...)
			},
			"diff": func(opts ...cache.RefOption) (cache.ImmutableRef, error) {
				return env.Manager.Diff(ctx, chain[1], chain[2], nil, opts...)
			},
			"diff over two layers": func(opts ...cache.RefOption) (cache.ImmutableRef, error) {
				return env.Manager.Diff(ctx, chain[0], chain[2], nil, opts...)
			},
		} {
			ref, err := do(opts...)
			require.NoError(t, err, name)
			require.Equal(t, "mine", ref.GetDescription(), name)
			require.Equal(t, usage.TypeFrontend, ref.GetRecordType())
			require.True(t, ref.HasCachePolicyRetain())
			require.True(t, created.Equal(ref.GetCreatedAt()))
			requireRow(t, env, ref.ID(), map[string]any{"cache.imageRefs": nil})
			release(t, ref)
			require.Equal(t, 1, usageByID(t, env)[ref.ID()].UsageCount, "%s: its end is a use all the same", name)
			plain, err := do()
			require.NoError(t, err)
			require.True(t, env.Clock.Now().Equal(plain.GetCreatedAt()))
			require.Empty(t, plain.GetDescription())
			release(t, plain)
		}
		releaseAll(t, chain)
	})
}

// chainOfThree makes three layers on each other, each with a file of its own: f0, f1, f2.
func chainOfThree(t *testing.T, env *testutil.Env) []cache.ImmutableRef {
	t.Helper()
	return builtChain(t, env, 3)
}

// builtChain makes n layers on each other, each with a file of its own.
func builtChain(t testing.TB, env *testutil.Env, n int) []cache.ImmutableRef {
	t.Helper()
	out := make([]cache.ImmutableRef, n)
	var below cache.ImmutableRef
	for i := range out {
		name := fmt.Sprint("f", i)
		below = testutil.MakeLayer(t, env, below, fileIn(t, name, name))
		out[i] = below
	}
	require.NoError(t, below.Finalize(ctx))
	return out
}

// TestHandlersOfMergesAndDiffs are those of all inputs; a later one's count.
func TestHandlersOfMergesAndDiffs(t *testing.T) { // spec MGR-34, MGR-38, MGR-39, REF-21
	env := testutil.New(t, testutil.Doubles())
	x, y, z := digest.FromString("x"), digest.FromString("y"), digest.FromString("z")
	chain := chainOfThree(t, env)
	with := func(id string, dhs cache.DescHandlers) cache.ImmutableRef {
		ref, err := env.Manager.Get(ctx, id, nil, dhs)
		require.NoError(t, err)
		return ref
	}
	a := with(chain[0].ID(), cache.DescHandlers{x: {Ref: "a"}, y: {Ref: "a"}})
	b := with(chain[1].ID(), cache.DescHandlers{y: {Ref: "b"}})
	c := with(chain[2].ID(), cache.DescHandlers{z: {Ref: "c"}, y: {Ref: "c"}})
	for want, do := range map[string]func() (cache.ImmutableRef, error){ // whose handlers it has for x, y and z
		"a b -": func() (cache.ImmutableRef, error) {
			return env.Manager.Merge(ctx, refs(a, b), nil, cache.DescHandlers{z: {Ref: "option"}})
		},
		"a a -": func() (cache.ImmutableRef, error) { return env.Manager.Merge(ctx, refs(b, a), nil) },
		"- b c": func() (cache.ImmutableRef, error) { return env.Manager.Diff(ctx, c, b, nil) },
		"a c c": func() (cache.ImmutableRef, error) { return env.Manager.Diff(ctx, a, c, nil) },
	} {
		ref, err := do()
		require.NoError(t, err)
		var got []string
		for _, d := range []digest.Digest{x, y, z} {
			owner := "-"
			if dh := ref.DescHandler(d); dh != nil {
				owner = dh.Ref
			}
			got = append(got, owner)
		}
		require.Equal(t, want, strings.Join(got, " "))
		release(t, ref)
	}
	releaseAll(t, chain, refs(a, b, c))
}

// TestDiff: one layer, unrelated layers, a layer with itself, and with nothing.
func TestDiff(t *testing.T) { // scenario S-14, spec MGR-37, MGR-39, MGR-40, DU-3, WALK-1, WALK-2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref, err := env.Manager.Diff(ctx, nil, nil, nil)
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		require.True(t, ref == nil)
		chain := builtChain(t, env, 3)
		_, err = env.Manager.Diff(ctx, nilOf(chain[0]), chain[1], nil)
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		requireUsage(t, env, 3, 0)

		for name, d := range map[string]struct {
			lower, upper cache.ImmutableRef
			parents      []string
			files        map[string]string
		}{
			"one layer":  {chain[0], chain[1], idsOf(chain[:2]), map[string]string{"f1": "f1"}},
			"same":       {chain[1], chain[1], []string{chain[1].ID(), chain[1].ID()}, map[string]string{}},
			"backwards":  {chain[2], chain[0], []string{chain[2].ID(), chain[0].ID()}, map[string]string{}},
			"scratch":    {chain[2], nil, []string{chain[2].ID()}, map[string]string{}},
			"typed nil":  {chain[1], nilOf(chain[0]), []string{chain[1].ID()}, map[string]string{}},
			"two layers": {chain[0], chain[2], nil, map[string]string{"f1": "f1", "f2": "f2"}},
		} {
			diff, err := env.Manager.Diff(ctx, d.lower, d.upper, nil)
			require.NoError(t, err, name)
			if d.parents != nil {
				require.Equal(t, d.parents, parentsOf(t, env, diff.ID()), name)
				upper := any(nil)
				if len(d.parents) == 2 {
					upper = d.parents[1]
				}
				requireRow(t, env, diff.ID(), map[string]any{
					"cache.lowerDiffParent": d.parents[0], "cache.upperDiffParent": upper,
					"snapshot.committed": true, "snapshot.size": nil, "cache.mergeParents": nil,
				})
			}
			require.NotContains(t, snapshotNames(t, env), snapshotOf(t, env, diff.ID()))
			requireFiles(t, diff, d.files)
			release(t, diff)
		}
		releaseAll(t, chain)
	})
}

// TestDiffKeepsItsParents: a diff is the one that keeps them once their refs are gone.
func TestDiffKeepsItsParents(t *testing.T) { // scenario S-14, spec MGR-40
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layers := single(t, env, 2)
		diff, err := env.Manager.Diff(ctx, layers[0], layers[1], nil)
		require.NoError(t, err)
		releaseAll(t, layers)
		prune(t, env, pruneAll)
		requireUsage(t, env, 3, 0)
		requireFiles(t, diff, map[string]string{"f1": "f1"})
		release(t, diff)
		requireUsage(t, env, 0, 3)
		require.Len(t, prune(t, env, pruneAll), 3)
		layer := single(t, env, 1)[0]
		scratch, err := env.Manager.Diff(ctx, layer, nil, nil)
		require.NoError(t, err)
		requireUsage(t, env, 2, 0)
		release(t, layer)
		requireUsage(t, env, 2, 0)
		release(t, scratch)
	})
}

// TestDiffOverSeveralLayers is the merge of what lies between: diffs of single layers, which come and go with it.
func TestDiffOverSeveralLayers(t *testing.T) { // scenario S-14, spec MGR-38, MGR-40, META-1, quirk Q25
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		chain := builtChain(t, env, 5)
		env.Faults.Reset()
		diff, err := env.Manager.Diff(ctx, chain[2], chain[4], nil, cache.WithDescription("mine"))
		require.NoError(t, err)
		require.Equal(t, 1, env.Faults.Count(fault.OpDBUpdate), "all rows at once: %s", env.Faults.Trace())
		requireUsage(t, env, 8, 0)
		parents := parentsOf(t, env, diff.ID())
		require.Len(t, parents, 2)
		infos := usageByID(t, env)
		for i, id := range parents {
			below, layer := chain[2+i].ID(), chain[3+i].ID()
			require.Equal(t, []string{below, layer}, infos[id].Parents)
			require.Equal(t, fmt.Sprintf("diff %q -> %q", below, layer), infos[id].Description)
			require.Zero(t, infos[id].UsageCount)
		}
		chainRefs := diff.LayerChain()
		require.Equal(t, idsOf(chain[3:]), idsOf(chainRefs))
		releaseAll(t, chainRefs)
		requireFiles(t, diff, map[string]string{"f3": "f3", "f4": "f4"})
		releaseAll(t, chain)
		requireUsage(t, env, 8, 0)
		release(t, diff)
		require.Equal(t, 1, usageByID(t, env)[diff.ID()].UsageCount)
		env.Reopen()
		requireUsage(t, env, 0, 8)
		require.Len(t, prune(t, env, pruneAll), 8)
		require.Empty(t, leaseIDs(t, env))
	})
}

// TestDiffThatIsNoAncestry: layers are compared one by one, so neither equal lengths nor a common beginning are enough, and layers without
// anything below are taken as they are.
func TestDiffThatIsNoAncestry(t *testing.T) { // spec MGR-38, MGR-39, WALK-1
	env := testutil.New(t, testutil.Doubles())
	chain, others := builtChain(t, env, 2), single(t, env, 3)
	merged := mergeOf(t, env, refs(chain[0], others[0], others[1]))
	same := mergeOf(t, env, refs(chain[0], others[0]))

	diff, err := env.Manager.Diff(ctx, chain[1], merged, nil)
	require.NoError(t, err)
	require.Equal(t, []string{chain[1].ID(), merged.ID()}, parentsOf(t, env, diff.ID()), "the second layers differ")
	between, err := env.Manager.Diff(ctx, chain[0], merged, nil)
	require.NoError(t, err)
	require.Equal(t, idsOf(others[:2]), parentsOf(t, env, between.ID()), "base layers need no diff of their own")
	last, err := env.Manager.Diff(ctx, same, merged, nil)
	require.NoError(t, err)
	require.Equal(t, []string{same.ID(), merged.ID()}, parentsOf(t, env, last.ID()), "one layer only")
	requireFiles(t, last, map[string]string{"f1": "f1"})
	requireFiles(t, between, map[string]string{"f0": "f0", "f1": "f1"})
	releaseAll(t, chain, others, refs(merged, same, diff, between, last))
}

// TestForeignInputs are looked up by their IDs, with the caller's options; what is taken for that is given back.
func TestForeignInputs(t *testing.T) { // spec OPT-3, MGR-6, MGR-35, MGR-40
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layers := single(t, env, 2)
		a, b := foreign{id: layers[0].ID()}, foreign{id: layers[1].ID()}
		releaseAll(t, layers)
		before := usageByID(t, env)
		x := digest.FromString("x")
		opt := cache.DescHandlers{x: {Ref: "mine"}}
		merged, err := env.Manager.Merge(ctx, refs(a, b), nil, opt)
		require.NoError(t, err)
		diff, err := env.Manager.Diff(ctx, a, b, nil, opt)
		require.NoError(t, err)
		one, err := env.Manager.Merge(ctx, refs(b), nil, opt)
		require.NoError(t, err)
		require.Equal(t, b.id, one.ID())
		for _, ref := range refs(merged, diff, one) {
			require.Equal(t, "mine", ref.DescHandler(x).Ref)
		}
		require.Equal(t, 3, env.Manager.Stats().Refs)
		release(t, merged, diff, one)
		after := usageByID(t, env)
		for _, id := range []string{a.id, b.id} {
			require.Equal(t, before[id].UsageCount, after[id].UsageCount)
		}
		for name, do := range map[string]func() (cache.ImmutableRef, error){
			"merge": func() (cache.ImmutableRef, error) { return env.Manager.Merge(ctx, refs(a, foreign{id: "none"}), nil) },
			"upper": func() (cache.ImmutableRef, error) { return env.Manager.Diff(ctx, a, foreign{id: "none"}, nil) },
			"lower": func() (cache.ImmutableRef, error) { return env.Manager.Diff(ctx, foreign{id: "none"}, a, nil) },
		} {
			ref, err := do()
			require.True(t, cache.IsNotFound(err), "%s: %v", name, err)
			require.True(t, ref == nil, name)
		}
		require.Zero(t, env.Manager.Stats().Refs)
		require.Len(t, prune(t, env, pruneAll), 4)
	})
}

// TestFailedMergesLeaveNothing: whichever call of the backend fails, the parents are as they were, and nothing else is left.
func TestFailedMergesLeaveNothing(t *testing.T) { // spec MGR-35, MGR-40, API-2, quirks Q01, Q14, Q17, faults 21, 23
	for name, do := range map[string]func(m cache.Manager, a, b, top cache.ImmutableRef) (cache.ImmutableRef, error){
		"merge": func(m cache.Manager, a, b, _ cache.ImmutableRef) (cache.ImmutableRef, error) {
			return m.Merge(ctx, refs(a, b), nil)
		},
		"diff": func(m cache.Manager, a, b, _ cache.ImmutableRef) (cache.ImmutableRef, error) {
			return m.Diff(ctx, a, b, nil)
		},
		"diff over several layers": func(m cache.Manager, a, _, top cache.ImmutableRef) (cache.ImmutableRef, error) {
			return m.Diff(ctx, a, top, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachFault(t, errdefs.ErrUnavailable, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
				chain := builtChain(t, env, 3)
				other := finalized(t, env, nil, nil)
				a, top := chain[0], chain[2]
				var got cache.ImmutableRef
				act := func() (err error) {
					got, err = do(env.Manager, a, other, top)
					return err
				}
				return act, func(t *testing.T, err error) {
					if err != nil {
						require.True(t, errdefs.IsUnavailable(err), "%v", err)
						require.True(t, got == nil)
						requireUsage(t, env, 4, 0)
						require.Equal(t, 4, env.Manager.Stats().Refs)
						prune(t, env, usage.PruneInfo{Filter: []string{"id==none"}}) // finishes what the fault kept from being taken back
						require.Empty(t, check(t, env))
						got, err = do(env.Manager, a, other, top)
						require.NoError(t, err)
					}
					release(t, got)
					releaseAll(t, chain, refs(other))
					prune(t, env, pruneAll)
					requireUsage(t, env, 0, 0)
					require.Empty(t, leaseIDs(t, env))
				}
			})
		})
	}
}
