package cache_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// deepChain makes a chain of n layers from blobs, each with a file of its own, which is left to be extracted.
func deepChain(t *testing.T, env *testutil.Env, r *registry, n int) (chain []cache.ImmutableRef, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	var below cache.ImmutableRef
	for i := range n {
		name := fmt.Sprintf("f%03d", i)
		files[name] = "x"
		below = byBlob(t, env, r, r.layer(t, "", tree.File(name, "x")), below)
		chain = append(chain, below)
	}
	return chain, files
}

// TestMergesOfDeepChains: however deep the chains are, merges and diffs of them mount, and so does what is built on top.
func TestMergesOfDeepChains(t *testing.T) { // fault 38, spec MRG-3, MGR-38, EXT-4, WALK-1
	need.Overlay(t)
	depths := []int{64, 128}
	if os.Getenv("LAYERCACHE_SWEEP") == "full" {
		depths = append(depths, 250, 251, 500)
	}
	for _, n := range depths {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			env := testutil.New(t, testutil.Overlay(), testutil.Bare())
			r := newRegistry()
			chain, files := deepChain(t, env, r, n)
			other := byBlob(t, env, r, r.layer(t, "", tree.File("other", "x")), nil)
			files["other"] = "x"
			merged := mergeOf(t, env, refs(chain[n-1], other))
			requireFiles(t, merged, files)
			child := finalized(t, env, merged, fileIn(t, "child", "x"))
			files["child"] = "x"
			requireFiles(t, child, files)
			between := diffOf(t, env, chain[0], chain[n-1])
			require.Len(t, parentsOf(t, env, between.ID()), n-1)
			delete(files, "child")
			delete(files, "other")
			delete(files, "f000")
			requireFiles(t, between, files)
			if n == 500 {
				requireTooDeep(t, env, r, chain[n-1], other)
			}
			releaseAll(t, chain, refs(other, merged, child, between))
		})
	}
}

// requireTooDeep demands of a chain of as many layers as overlayfs takes that it mounts, and of one with a layer more that it is refused as
// such, to read and to write, and that a merge of it mounts.
func requireTooDeep(t *testing.T, env *testutil.Env, r *registry, most, other cache.ImmutableRef) {
	t.Helper()
	testutil.WithMount(t, most, true, func(dir string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 500)
	})
	deeper := byBlob(t, env, r, r.layer(t, "", tree.File("deeper", "x")), most)
	mountable, err := deeper.Mount(ctx, true, nil)
	require.NoError(t, err)
	_, _, err = mountable.Mount()
	require.ErrorIs(t, err, snapshot.ErrTooManyLayers)
	mut := newMutable(t, env, deeper)
	mountable, err = mut.Mount(ctx, false, nil)
	require.NoError(t, err)
	_, _, err = mountable.Mount()
	require.ErrorIs(t, err, snapshot.ErrTooManyLayers)
	merged := mergeOf(t, env, refs(deeper, other))
	testutil.WithMount(t, merged, true, func(dir string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 502)
	})
	release(t, mut, deeper, merged)
}

// TestDeepChainsInMemory: what is worked out of the records is linear, and does not go through the goroutine's stack.
func TestDeepChainsInMemory(t *testing.T) { // fault 38, spec WALK-1, MGR-32, MGR-38
	env := testutil.New(t, testutil.Doubles(), testutil.Bare())
	r := newRegistry()
	desc := r.layer(t, "", tree.File("f", "x"))
	const n = 3000
	var below cache.ImmutableRef
	chain := make(cache.RefList, n)
	for i := range chain {
		below = byBlob(t, env, r, desc, below)
		chain[i] = below
	}
	between := diffOf(t, env, chain[0], below)
	require.Len(t, parentsOf(t, env, between.ID()), n-1)
	merged := mergeOf(t, env, refs(below, between))
	walk := merged.LayerChain()
	require.Len(t, walk, 2*n-1)
	releaseAll(t, walk)
	var err error
	many := refs(merged)
	for len(many) < 32 {
		many = append(many, many...)
	}
	_, err = env.Manager.Merge(ctx, many, nil)
	require.ErrorContains(t, err, "more than 65536 layers")
	releaseAll(t, chain, refs(between, merged))
}

// TestEmptyLayerTwice: the same empty layer mounts as often as anybody likes, below itself and merged with itself.
func TestEmptyLayerTwice(t *testing.T) { // fault 38, spec MGR-32, MRG-1
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		empty := r.layer(t, "gzip")
		first := byBlob(t, env, r, empty, nil)
		second := byBlob(t, env, r, empty, first)
		third := byBlob(t, env, r, empty, second)
		twice := mergeOf(t, env, refs(first, first))
		many := mergeOf(t, env, refs(third, first, second))
		none := diffOf(t, env, first, third)
		for _, ref := range refs(third, twice, many, none) {
			requireFiles(t, ref, map[string]string{})
			mut := newMutable(t, env, ref)
			testutil.WithMount(t, mut, false, fileIn(t, "f", "x"))
			release(t, mut)
		}
		releaseAll(t, refs(first, second, third, twice, many, none))
	})
}

// TestDiffThroughAClone: a clone is enough to keep what it is of, whatever is released and collected meanwhile.
func TestDiffThroughAClone(t *testing.T) { // fault 5, spec REF-1, MGR-6, MGR-39
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		lower := finalized(t, env, nil, fileIn(t, "lower", "x"))
		upper := testutil.MakeLayer(t, env, lower, fileIn(t, "upper", "x"))
		clone := upper.Clone()
		release(t, upper)
		require.NoError(t, env.GC(ctx))
		prune(t, env, pruneAll)
		diff := diffOf(t, env, lower, clone)
		require.NoError(t, clone.Finalize(ctx))
		require.NoError(t, env.GC(ctx))
		requireFiles(t, diff, map[string]string{"upper": "x"})
		another := diff.Clone()
		release(t, diff)
		require.NoError(t, env.GC(ctx))
		prune(t, env, pruneAll)
		requireFiles(t, another, map[string]string{"upper": "x"})
		release(t, lower, clone, another)
	})
}
