package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
)

func diffOf(t testing.TB, env *testutil.Env, lower, upper cache.ImmutableRef, opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	ref, err := env.Manager.Diff(ctx, lower, upper, nil, opts...)
	require.NoError(t, err)
	return ref
}

// commits counts how often a snapshot of a name was committed since Faults.Reset.
func commits(env *testutil.Env, name string) (n int) {
	for _, p := range env.Faults.Trace() {
		if p.Op == fault.OpSnapshotCommit && p.Key == name && p.When == fault.Before {
			n++
		}
	}
	return n
}

// TestContentOfMerges: deletions, overrides, what is repeated, and diffs on top of merges, through New, Mount and Extract.
func TestContentOfMerges(t *testing.T) { // scenario S-32, spec EXT-4, MRG-1, MGR-32, MGR-37, MNT-2, MGR-2, APP-10
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base := byBlob(t, env, r, r.layer(t, "gzip", tree.File("a", "base"), tree.Dir("d"), tree.File("d/x", "x"), tree.File("d/y", "y")), nil)
		upper := byBlob(t, env, r, r.layer(t, "gzip", tree.Whiteout("a"), tree.Whiteout("d/x"), tree.File("u", "upper")), base)
		other := byBlob(t, env, r, r.layer(t, "", tree.File("a", "other"), tree.File("d", "a file")), nil)

		merged := mergeOf(t, env, refs(upper, other))
		requireFiles(t, merged, map[string]string{"a": "other", "d": "a file", "u": "upper"})
		again := mergeOf(t, env, refs(other, upper, other))
		requireFiles(t, again, map[string]string{"a": "other", "d": "a file", "u": "upper"})
		turned := mergeOf(t, env, refs(other, upper))
		requireFiles(t, turned, map[string]string{"d/y": "y", "u": "upper"})

		deletes := diffOf(t, env, base, upper)
		requireFiles(t, deletes, map[string]string{"u": "upper"})
		applied := mergeOf(t, env, refs(other, deletes))
		require.NoError(t, applied.Extract(ctx, nil))
		requireFiles(t, applied, map[string]string{"u": "upper"}) // to delete something in d makes d a directory (spec DIF-4)
		scratch := diffOf(t, env, merged, nil)
		requireFiles(t, mergeInto(t, env, merged, scratch), map[string]string{})

		mut := newMutable(t, env, merged)
		testutil.WithMount(t, mut, false, func(dir string) {
			require.Equal(t, "other", readFiles(t, dir)["a"])
			require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), []byte("changed"), 0o600))
		})
		child := commit(t, mut)
		require.NoError(t, child.Finalize(ctx))
		top := diffOf(t, env, merged, child)
		requireFiles(t, top, map[string]string{"a": "changed"})
		requireFiles(t, mergeInto(t, env, upper, top), map[string]string{"a": "changed", "d/y": "y", "u": "upper"})
		requireFiles(t, other, map[string]string{"a": "other", "d": "a file"})
		requireFiles(t, merged, map[string]string{"a": "other", "d": "a file", "u": "upper"})
		release(t, base, upper, other, merged, again, turned, deletes, applied, scratch, child, top)
	})
}

// mergeInto merges two refs for the time of a test.
func mergeInto(t *testing.T, env *testutil.Env, a, b cache.ImmutableRef) cache.ImmutableRef {
	t.Helper()
	ref := mergeOf(t, env, refs(a, b))
	t.Cleanup(func() { require.NoError(t, ref.Release(ctx)) })
	return ref
}

// TestMergeExtractsItsInputs, whole chains of them, at the same time, and makes its own tree once for all who ask.
func TestMergeExtractsItsInputs(t *testing.T) { // spec EXT-3, EXT-4, EXT-10, MGR-8
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		want := map[string]string{}
		var inputs []cache.ImmutableRef
		for _, name := range []string{"a", "b", "c"} {
			below := byBlob(t, env, r, r.layer(t, "gzip", tree.File(name+"0", name)), nil)
			input := byBlob(t, env, r, r.layer(t, "gzip", tree.File(name+"1", name)), below)
			want[name+"0"], want[name+"1"] = name, name
			release(t, below)
			inputs = append(inputs, input)
		}
		merged := mergeOf(t, env, inputs)
		id := merged.ID()
		releaseAll(t, inputs, refs(merged))
		_, err := env.Manager.Get(ctx, id, nil)
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, err, &missing)
		require.Len(t, missing, 6)
		merged = get(t, env, id, r.allHandlers())

		env.Faults.Reset()
		var wg sync.WaitGroup
		errs := make([]error, 10)
		for i := range errs {
			wg.Go(func() { errs[i] = merged.Extract(ctx, nil) })
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Equal(t, 1, commits(env, id))
		require.Equal(t, 6, env.Faults.Count(fault.OpApply))
		env.Faults.Reset()
		require.NoError(t, merged.Extract(ctx, nil))
		require.Zero(t, commits(env, id))
		requireFiles(t, merged, want)
		release(t, merged)
	})
}

// TestInputsAreExtractedAtTheSameTime: an input that takes its time does not hold up another.
func TestInputsAreExtractedAtTheSameTime(t *testing.T) { // spec EXT-4, fault 26
	env := testutil.New(t, testutil.Doubles())
	r := newRegistry()
	slow, quick := r.layer(t, "gzip", tree.File("slow", "x")), r.layer(t, "gzip", tree.File("quick", "x"))
	inputs := refs(byBlob(t, env, r, slow, nil), byBlob(t, env, r, quick, nil))
	merged := mergeOf(t, env, inputs)
	applied := make(chan struct{})
	env.Faults.Inject(fault.Match{Op: fault.OpApply, When: fault.After, Key: quick.Digest.String()}, func(context.Context, fault.Point) error {
		close(applied)
		return nil
	})
	env.Faults.Inject(fault.Match{Op: fault.OpApply, When: fault.Before, Key: slow.Digest.String()}, func(ctx context.Context, _ fault.Point) error {
		select {
		case <-applied:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute): // ends only a test that fails
			return context.DeadlineExceeded
		}
	})
	require.NoError(t, merged.Extract(ctx, nil))
	releaseAll(t, inputs, refs(merged))
}

// TestProgressOfMerges: at the top by what is done, below that by what it is done to.
func TestProgressOfMerges(t *testing.T) { // spec EXT-5, EXT-13, quirk Q38
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		chain := chainOfThree(t, env)
		others := single(t, env, 1)
		progress := &progressLog{}
		merged, err := env.Manager.Merge(ctx, refs(chain[2], others[0]), progress)
		require.NoError(t, err)
		require.NoError(t, merged.Extract(ctx, nil))
		statuses, ends := progress.take(t)
		require.Equal(t, []string{"merging"}, statuses)
		require.Equal(t, []error{nil}, ends)
		diff, err := env.Manager.Diff(ctx, chain[1], others[0], progress)
		require.NoError(t, err)
		requireFiles(t, diff, map[string]string{"f0": "f0"})
		statuses, _ = progress.take(t)
		require.Equal(t, []string{"diffing"}, statuses)

		inner := mergeOf(t, env, refs(chain[0], others[0]))
		named := mergeOf(t, env, refs(chain[1], others[0]), cache.WithDescription("my merge"))
		outer, err := env.Manager.Diff(ctx, inner, named, progress)
		require.NoError(t, err)
		require.NoError(t, outer.Extract(ctx, nil))
		statuses, ends = progress.take(t)
		require.ElementsMatch(t, []string{"diffing", "merging " + inner.ID(), "my merge"}, statuses)
		require.Len(t, ends, 3)

		third, err := env.Manager.Merge(ctx, refs(others[0], chain[1]), progress)
		require.NoError(t, err)
		env.Faults.FailOp(fault.OpSnapshotCommit, errdefs.ErrDataLoss)
		require.ErrorIs(t, third.Extract(ctx, nil), errdefs.ErrDataLoss)
		env.Faults.Reset()
		_, ends = progress.take(t)
		require.Len(t, ends, 1)
		require.ErrorIs(t, ends[0], errdefs.ErrDataLoss)
		releaseAll(t, chain, others, refs(merged, diff, inner, named, outer, third))
	})
}

// TestRestoringALostInput: trees that vanished, of inputs as of merges, are made again when they are needed.
func TestRestoringALostInput(t *testing.T) { // scenario S-12, spec EXT-3, EXT-10, fault 8, quirk Q33
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a := byBlob(t, env, r, r.layer(t, "gzip", tree.File("a", "a")), nil)
		b := byBlob(t, env, r, r.layer(t, "gzip", tree.File("b", "b")), nil)
		require.NoError(t, a.Extract(ctx, nil))
		require.NoError(t, b.Extract(ctx, nil))
		diff, merged := diffOf(t, env, a, b), mergeOf(t, env, refs(a, b))
		loseSnapshot(t, env, a.ID())
		require.NoError(t, diff.Extract(ctx, nil))
		require.Contains(t, snapshotNames(t, env), snapshotOf(t, env, a.ID()))
		requireFiles(t, diff, map[string]string{"b": "b"})
		requireFiles(t, merged, map[string]string{"a": "a", "b": "b"})
		releaseAll(t, refs(diff, merged)) // no views

		diff, merged = get(t, env, diff.ID()), get(t, env, merged.ID())
		loseSnapshot(t, env, merged.ID())
		loseSnapshot(t, env, diff.ID())
		require.NoError(t, diff.Extract(ctx, nil))
		requireFiles(t, diff, map[string]string{"b": "b"})
		requireFiles(t, merged, map[string]string{"a": "a", "b": "b"})
		child := testutil.MakeLayer(t, env, merged, fileIn(t, "c", "c"))
		requireFiles(t, child, map[string]string{"a": "a", "b": "b", "c": "c"})
		release(t, child, a, b, diff, merged)
	})
}

// TestInputThatCannotBeMadeAgain: a layer that was built here and lost its tree is named by the error.
func TestInputThatCannotBeMadeAgain(t *testing.T) { // spec EXT-10, faults 8, 9
	env := testutil.New(t, testutil.Doubles())
	layers := single(t, env, 3)
	lost, whole := mergeOf(t, env, layers[:2]), mergeOf(t, env, layers[1:])
	loseSnapshot(t, env, layers[0].ID())
	err := lost.Extract(ctx, nil)
	require.ErrorIs(t, err, cache.ErrNotExtracted)
	var layer *cache.LayerError
	require.ErrorAs(t, err, &layer)
	require.Equal(t, layers[0].ID(), layer.Record)
	require.NotContains(t, snapshotNames(t, env), lost.ID())
	requireFiles(t, whole, map[string]string{"f1": "f1", "f2": "f2"})
	release(t, lost)
	id := layers[0].ID()
	releaseAll(t, layers, refs(whole))
	prune(t, env, pruneAll)
	_, err = env.Manager.Get(ctx, id, nil)
	require.True(t, cache.IsNotFound(err), "%v", err)
}

// TestMergeFoundInPlace: a tree that was committed before the process died is found by the next one; one that was never made is made.
func TestMergeFoundInPlace(t *testing.T) { // spec EXT-3, SIZE-1, SIZE-5, design section 5, quirk Q35, fault 29
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layers := single(t, env, 2)
		made, unmade := mergeOf(t, env, layers), diffOf(t, env, layers[0], layers[1])
		require.NoError(t, made.Extract(ctx, nil))
		size := usageByID(t, env)[made.ID()].Size
		require.NoError(t, env.Opt.MetadataStore.Flush())
		id, other := made.ID(), unmade.ID()
		env.Crash()
		env.Open()
		require.Equal(t, size, usageByID(t, env)[id].Size)
		require.Zero(t, usageByID(t, env)[other].Size)
		made, unmade = get(t, env, id), get(t, env, other)
		env.Faults.Reset()
		require.NoError(t, made.Extract(ctx, nil))
		require.Zero(t, env.Faults.Count(fault.OpDBUpdate)+env.Faults.Count(fault.OpTransaction)+env.Faults.Count(fault.OpSnapshotPrepare))
		require.Equal(t, size, usageByID(t, env)[id].Size)
		requireFiles(t, made, map[string]string{"f0": "f0", "f1": "f1"})
		requireFiles(t, unmade, map[string]string{"f1": "f1"})
		release(t, made, unmade)
	})
}

// TestFailedMergingLeavesNothing: whatever step fails, neither lease nor snapshot stays, and the next try succeeds.
func TestFailedMergingLeavesNothing(t *testing.T) { // spec MRG-4, EXT-9, LEASE-4
	for _, op := range []string{
		fault.OpSnapshotPrepare, fault.OpSnapshotMounts, fault.OpSnapshotCommit, fault.OpSnapshotView, fault.OpLeaseCreate, fault.OpSnapshotStat, fault.OpDBUpdate,
	} {
		t.Run(op, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				chain, others := builtChain(t, env, 2), single(t, env, 2)
				merged := mergeOf(t, env, refs(others[0], chain[1], others[1]))
				before := snapshotNames(t, env)
				env.Faults.Reset()
				env.Faults.FailOp(op, errdefs.ErrPermissionDenied)
				err := merged.Extract(ctx, nil)
				require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
				require.ErrorContains(t, err, merged.ID())
				env.Faults.Reset()
				require.NoError(t, env.GC(ctx))
				require.ElementsMatch(t, before, snapshotNames(t, env))
				requireNoWork(t, env)
				requireFiles(t, merged, map[string]string{"f0": "f0", "f1": "f1"})
				releaseAll(t, chain, others, refs(merged))
			})
		})
	}
}

// TestMergeOfRemoteLayers: chains that the snapshotter provides from afar are not pulled, and while a merge reads them they have the labels
// that say on whose behalf.
func TestMergeOfRemoteLayers(t *testing.T) { // spec REM-1, REM-2, EXT-2, EXT-4
	env, rs := remoteEnv(t, "stargz", 3)
	r := newRegistry()
	chain, descs := remoteChain(t, env, r)
	local := finalized(t, env, nil, fileIn(t, "local", "x"))
	merged := mergeOf(t, env, refs(local, chain[2]))
	rs.mu.Lock()
	rs.seen = nil
	rs.mu.Unlock()
	require.NoError(t, merged.Extract(ctx, session.NewGroup("me")))
	for _, desc := range descs {
		require.Zero(t, r.opened(desc.Digest), "it is provided from afar")
	}
	labelled := 0
	rs.mu.Lock()
	for _, labels := range rs.seen {
		for k, v := range labels {
			if strings.HasPrefix(k, "containerd.io/snapshot/remote/stargz.session.") {
				require.Equal(t, "me", v)
				labelled++
			}
		}
	}
	rs.mu.Unlock()
	require.Positive(t, labelled)
	requireNoTemporaryLabels(t, env)
	releaseAll(t, chain, refs(local, merged))
}

// TestCheckOfMerges: a recipe without a tree is sound; a tree that was there and vanished is told, and so is a lease that lists another.
func TestCheckOfMerges(t *testing.T) { // spec MGR-34, EXT-10, LEASE-1
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		in := single(t, env, 2)
		merged := mergeOf(t, env, refs(in[0], in[1], in[0]))
		require.Empty(t, check(t, env))
		require.NoError(t, merged.Extract(ctx, nil))
		require.Empty(t, check(t, env))
		loseSnapshot(t, env, merged.ID())
		requireFound(t, check(t, env), finding(cache.FindingSnapshotMissing, merged.ID(), merged.ID(), ""))
		require.NoError(t, merged.Extract(ctx, nil))
		require.Empty(t, check(t, env))
		dropLease(t, env, merged.ID())
		requireFound(t, check(t, env), finding(cache.FindingLeaseMissing, merged.ID(), merged.ID(), cache.RepairCreateLease))
		done, err := env.Manager.Repair(ctx, check(t, env)...)
		require.NoError(t, err)
		require.Len(t, done, 1)
		releaseAll(t, in, refs(merged))
	})
}

// TestCallsOfMerging: a merge waits for the disk as often as its record, its tree and its leases need, however many layers it has.
func TestCallsOfMerging(t *testing.T) { // spec META-1, LOCK-2, design section 5
	for _, name := range []string{"doubles", "joined", "native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, backends[name]...)
			in := single(t, env, 6)
			apart := 0 // where nothing is shared each call counts
			if env.Opt.Transactions == nil {
				apart = 1
			}
			for _, n := range []int{2, 6} {
				env.Faults.Reset()
				merged := mergeOf(t, env, in[:n])
				rows, backend := writes(env)
				require.Equal(t, [2]int{1, 1}, [2]int{rows, backend}, "the row, the lease")
				env.Faults.Reset()
				require.NoError(t, merged.Extract(ctx, nil))
				rows, backend = writes(env)
				require.Equal(t, [2]int{1, 2}, [2]int{rows, backend + env.Faults.Count(fault.OpLeaseDelete)*apart}, "the mark; the work's lease, made and deleted: %s", env.Faults.Trace())
				require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotPrepare))
				require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotCommit))
				require.Zero(t, env.Faults.Count(fault.OpGarbageCollect))
				release(t, merged)
				prune(t, env, pruneAll)
			}
			releaseAll(t, in)
		})
	}
}
