package cache_test

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// keyUnsynced is what a row has while its tree is not known to be on disk.
const keyUnsynced = "layercache.unsynced"

// marked lists the rows that have the mark.
func marked(t *testing.T, env *testutil.Env) []string {
	t.Helper()
	ids := []string{}
	for id, row := range rowsOf(t, env) {
		if row[keyUnsynced] != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// written is a record of each kind that a tree can be written through.
type written struct {
	layer, child   cache.ImmutableRef // finalized
	immID, mutID   string             // committed, not finalized, retained
	mount          string             // mutable, retained
	all, snapshots []string
}

// write makes them on parent, nil for none, and lets go of them.
func write(t *testing.T, env *testutil.Env, parent cache.ImmutableRef) written {
	t.Helper()
	var w written
	w.layer = finalized(t, env, parent, fileIn(t, "layer", "layer"))
	w.child = finalized(t, env, w.layer, fileIn(t, "child", "child"))
	pair := testutil.MakeLayer(t, env, parent, fileIn(t, "pair", "pair"), cache.CachePolicyRetain)
	w.immID, w.mutID = pair.ID(), mutableID(t, env, pair)
	mut := newMutable(t, env, parent, cache.CachePolicyRetain)
	testutil.WithMount(t, mut, false, fileIn(t, "mount", "mount"))
	w.mount = mut.ID()
	release(t, w.layer, w.child, pair, mut)
	w.all = []string{w.layer.ID(), w.child.ID(), w.immID, w.mutID, w.mount}
	w.snapshots = []string{w.layer.ID(), w.child.ID(), w.mutID, w.mount}
	return w
}

// requireThere looks at everything that was written.
func (w written) requireThere(t *testing.T, env *testutil.Env) {
	t.Helper()
	for _, id := range []string{w.layer.ID(), w.child.ID()} {
		ref := get(t, env, id)
		requireFile(t, ref, "layer", "layer")
		release(t, ref)
	}
	pair := get(t, env, w.immID)
	requireFile(t, pair, "pair", "pair")
	mut, err := env.Manager.GetMutable(ctx, w.mount)
	require.NoError(t, err)
	requireFile(t, mut, "mount", "mount")
	release(t, pair, mut)
}

// requireGone looks for anything that is left of it.
func (w written) requireGone(t *testing.T, env *testutil.Env) {
	t.Helper()
	for _, id := range append(w.snapshots, w.immID) {
		require.NotContains(t, snapshotNames(t, env), id, "the start collects")
	}
	for _, id := range w.all {
		_, err := env.Manager.Get(ctx, id, nil)
		require.True(t, cache.IsNotFound(err), "%s: %v", id, err)
		require.NotContains(t, rowsOf(t, env), id)
		require.NotContains(t, leaseIDs(t, env), id)
	}
}

// Design section 5: a crash of the process alone costs nothing, since the kernel still has every byte.
func TestCrashOfTheProcessKeepsWhatIsNotSynced(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		w := write(t, env, nil)
		require.ElementsMatch(t, w.all, marked(t, env))
		env.Crash()
		env.Faults.Reset()
		env.Open()
		require.Zero(t, env.Faults.Count("db.Update"), "clean, with marks")
		require.Zero(t, env.Faults.Count("fs.*"))
		w.requireThere(t, env)
		env.Clock.Advance(time.Minute)
		require.Empty(t, marked(t, env), "marks of the dead process are taken off, too")
		env.Reboot()
		env.Open()
		w.requireThere(t, env)
	})
}

// Design section 5, spec INIT-2, INIT-7: after a crash of the machine nothing is served that was not on disk, nor what lies on
// it; what is on disk stays. Nothing of the dropped is left, and it is told.
func TestCrashOfTheMachineDropsWhatIsNotSynced(t *testing.T) {
	for name, opts := range backends {
		t.Run(name, func(t *testing.T) {
			r, opts := observed(opts...)
			env := testutil.New(t, opts...)
			base := finalizedLayer(t, env, nil)
			env.Reopen()
			parent := get(t, env, base.ID())
			old := write(t, env, parent)
			release(t, parent)
			env.Reopen()
			parent = get(t, env, base.ID())
			w := write(t, env, parent)
			release(t, parent)
			r.take()
			env.Reboot()
			env.Open()
			var want []string
			for _, id := range w.all {
				want = append(want, "recover "+id+" unsynced")
			}
			require.ElementsMatch(t, want, r.takeTexts())
			w.requireGone(t, env)
			old.requireThere(t, env)
			requireUsage(t, env, 0, 5)
		})
	}
}

// Design section 5: what makes a record survive a crash of the machine: Close, the flush in the background, or
// the option Sync.
func TestSyncedSurvivesTheMachine(t *testing.T) {
	for name, sync := range map[string]func(env *testutil.Env){
		"close":      func(env *testutil.Env) { require.NoError(t, env.Close()) },
		"background": func(env *testutil.Env) { env.Clock.Advance(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				w := write(t, env, nil)
				sync(env)
				env.Reboot()
				env.Open()
				w.requireThere(t, env)
				require.Empty(t, marked(t, env))
			})
		})
	}
	t.Run("option", func(t *testing.T) {
		env := testutil.New(t, testutil.Doubles(), withSync())
		layer := finalizedLayer(t, env, nil)
		open := newMutable(t, env, nil, cache.CachePolicyRetain)
		release(t, open)
		require.Equal(t, []string{open.ID()}, marked(t, env))
		env.Reboot()
		env.Open()
		requireRecords(t, env, layer)
	})
}

// withSync sets the option Sync.
func withSync() testutil.Option {
	return testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Sync = true })
}

// Design section 5, spec REF-11: with Sync the bytes are on disk before the row says that the layer is final, and if they are
// not, it does not.
func TestSyncComesBeforeTheRow(t *testing.T) {
	for name, opts := range faultBackends {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, append(slices.Clone(opts), withSync())...)
			layer := testutil.MakeLayer(t, env, nil, nil)
			env.Faults.FailOp(fault.OpSyncFS, errBackend)
			require.ErrorIs(t, layer.Finalize(ctx), errBackend)
			require.Len(t, marked(t, env), 2)
			_, ok := layer.GetEqualMutable()
			require.True(t, ok, "not final")

			env.Faults.Reset()
			require.NoError(t, layer.Finalize(ctx))
			var order []string
			for _, p := range env.Faults.Trace() {
				if p.When == fault.After && (p.Op == fault.OpSyncFS || p.Op == fault.OpDBUpdate) {
					order = append(order, p.Op)
				}
			}
			require.Equal(t, []string{fault.OpSyncFS, fault.OpDBUpdate}, order)
			require.Empty(t, marked(t, env))

			env.Faults.Reset()
			require.NoError(t, layer.Finalize(ctx))
			env.Clock.Advance(time.Hour)
			require.Zero(t, env.Faults.Count(fault.OpSyncFS), "there is nothing left to flush")
			release(t, layer)

			flushed := testutil.MakeLayer(t, env, nil, nil)
			env.Clock.Advance(time.Minute)
			env.Faults.Reset()
			require.NoError(t, flushed.Finalize(ctx))
			require.Zero(t, env.Faults.Count(fault.OpSyncFS), "it was flushed in the background")
			release(t, flushed)
		})
	}
}

// Spec API-3: Sync without a way to do it is refused.
func TestSyncNeedsSyncFS(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	opt := env.Opt
	opt.Sync, opt.SyncFS = true, nil
	_, err := cache.NewManager(opt)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// Design section 5: the marks cost no transaction of their own, are taken off together in one, and nothing is done
// while there are none.
func TestMarksCostNoTransaction(t *testing.T) {
	counts := map[bool]int{}
	for _, marking := range []bool{true, false} {
		env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
			if !marking {
				o.SyncFS = nil
			}
		}))
		release(t, finalized(t, env, nil, fileIn(t, "f", "f")))
		counts[marking] = env.Faults.Count(fault.OpDBUpdate)
		if !marking {
			require.Empty(t, marked(t, env))
			continue
		}
		require.Len(t, marked(t, env), 1)
		write(t, env, nil)
		require.NoError(t, env.Opt.MetadataStore.Flush())
		require.Equal(t, 1, env.Clock.Timers())
		env.Faults.Reset()
		env.Clock.Advance(time.Minute)
		require.Equal(t, 1, env.Faults.Count(fault.OpDBUpdate))
		require.Equal(t, 1, env.Faults.Count(fault.OpSyncFS))
		require.Zero(t, env.Clock.Timers(), "no polling")
		require.NoError(t, env.Close())
		require.Equal(t, 1, env.Faults.Count(fault.OpSyncFS), "nothing to flush at the end")
	}
	require.Equal(t, counts[false], counts[true])
	require.Equal(t, 3, counts[true], "New, Commit, Finalize")
}

// Design section 5: a tree that is open for writing keeps its mark, and one that was flushed gets it again before it is
// handed out to be written to; looking at it costs nothing.
func TestMarkOfWhatIsWrittenAgain(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		id := mut.ID()
		testutil.WithMount(t, mut, false, fileIn(t, "f", "f"))
		env.Clock.Advance(time.Hour)
		require.Equal(t, []string{id}, marked(t, env), "its writer is there")
		release(t, mut)
		env.Clock.Advance(time.Hour)
		require.Empty(t, marked(t, env))

		mut, err := env.Manager.GetMutable(ctx, id)
		require.NoError(t, err)
		testutil.WithMount(t, mut, true, func(string) {})
		require.Empty(t, marked(t, env))
		env.Faults.FailOp(fault.OpDBUpdate, errBackend)
		_, err = mut.Mount(ctx, false, nil)
		require.ErrorIs(t, err, errBackend, "without the mark nobody gets to write")
		env.Faults.Reset()
		_, err = mut.Mount(ctx, false, nil)
		require.NoError(t, err)
		require.Equal(t, []string{id}, marked(t, env))

		imm := commit(t, mut)
		require.ElementsMatch(t, []string{id, imm.ID()}, marked(t, env), "Commit takes it along")
		require.NoError(t, imm.Finalize(ctx))
		require.Equal(t, []string{imm.ID()}, marked(t, env))
		release(t, imm)
		env.Reboot()
		env.Open()
		requireUsage(t, env, 0, 0)
	})
}

// Design section 5: a flush that fails leaves the marks and is tried again, by the timer and by Close, which reports it.
func TestFlushThatFails(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	w := write(t, env, nil)
	env.Faults.FailOp(fault.OpSyncFS, errBackend)
	env.Clock.Advance(time.Minute)
	require.Len(t, marked(t, env), len(w.all))
	require.ErrorIs(t, env.Manager.Close(), errBackend)
	env.Faults.Reset()
	env.Crash()
	env.Open()
	require.Len(t, marked(t, env), len(w.all))
	env.Faults.FailOp(fault.OpDBUpdate, errBackend)
	env.Clock.Advance(time.Minute)
	env.Faults.Reset()
	require.Len(t, marked(t, env), len(w.all))
	env.Clock.Advance(time.Minute)
	require.Empty(t, marked(t, env))
	w.requireThere(t, env)
}

// Design section 5: what a flush could not write the kernel has given up; the next one says nothing about it.
func TestFlushThatLosesData(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), withSync())
	before := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "f"), cache.CachePolicyRetain)
	env.Faults.FailOp(fault.OpSyncFS, errdefs.ErrDataLoss)
	env.Clock.Advance(time.Minute)
	env.Faults.Reset()
	require.True(t, errdefs.IsDataLoss(before.Finalize(ctx)))
	require.Zero(t, env.Faults.Count(fault.OpSyncFS))
	after := finalized(t, env, nil, fileIn(t, "f", "f"))
	mutID := mutableID(t, env, before)
	release(t, before, after)
	env.Clock.Advance(time.Hour)
	require.ElementsMatch(t, []string{before.ID(), mutID}, marked(t, env))
	env.Reboot()
	env.Open()
	requireRecords(t, env, after)
}

// Fault 26, spec LOCK-2: a flush that hangs delays nobody, and what is written meanwhile keeps its mark.
func TestFlushDelaysNobody(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layer := finalizedLayer(t, env, nil)
		idle := newMutable(t, env, nil, cache.CachePolicyRetain)
		release(t, idle)
		block := env.Faults.BlockOp(fault.OpSyncFS)
		done := make(chan struct{})
		go func() { defer close(done); env.Clock.Advance(31 * time.Second) }()
		<-block.Entered()

		mut, err := env.Manager.GetMutable(ctx, idle.ID())
		require.NoError(t, err)
		testutil.WithMount(t, mut, false, fileIn(t, "late", "late"))
		release(t, mut)
		parent := get(t, env, layer.ID())
		child := finalized(t, env, parent, fileIn(t, "f", "f"))
		gone := newMutable(t, env, nil)
		release(t, parent, child, gone)
		prune(t, env, usage.PruneInfo{Filter: []string{"id==" + child.ID()}})
		another := finalized(t, env, nil, nil)
		release(t, another)
		block.Release()
		<-done
		require.ElementsMatch(t, []string{idle.ID(), another.ID()}, marked(t, env))
		env.Faults.Reset()
		env.Clock.Advance(time.Minute)
		require.Empty(t, marked(t, env))
	})
}

// Design section 5: a lost tree whose layer can be extracted again becomes lazy, under a name that nobody can find it by; so
// does whoever shared its snapshot, and a merge of it. What has no recipe, and what lies on it, goes.
func TestLostTreeWithARecipe(t *testing.T) {
	for _, name := range []string{"doubles", "joined", "separate"} {
		t.Run(name, func(t *testing.T) {
			r, opts := observed(backends[name]...)
			env := testutil.New(t, opts...)
			layer, again, sharing := withRecipe(t, env)
			child := finalizedLayer(t, env, nil)
			editRow(t, env, child.ID(), map[string]any{"cache.parent": layer.ID()})
			editRow(t, env, "merge", map[string]any{
				"cache.mergeParents": []string{layer.ID(), sharing}, "snapshot.committed": true, "cache.createdAt": 1, "cache.snapshot": "merge",
			})
			r.take()
			env.Reboot()
			env.Open()
			require.ElementsMatch(t, []string{
				"recover " + layer.ID() + " unsynced, to be extracted again", "recover " + sharing + " unsynced, to be extracted again",
				"recover merge unsynced, to be extracted again", "recover " + child.ID() + " unsynced",
			}, r.takeTexts())
			rows := rowsOf(t, env)
			require.Len(t, rows, 3)
			require.NotContains(t, rows[layer.ID()]["cache.snapshot"], layer.ID())
			require.Equal(t, rows[layer.ID()]["cache.snapshot"], rows[sharing]["cache.snapshot"], "they share it still")
			require.Equal(t, "true ", rows[layer.ID()]["cache.blobonly"])
			require.NotContains(t, rows["merge"]["cache.snapshot"], "merge")
			require.Empty(t, marked(t, env))
			_, resources := leaseOf(t, env, layer.ID())
			require.Len(t, resources, 2)
			require.NotContains(t, resources, leases.Resource{ID: layer.ID(), Type: "snapshots/" + env.Opt.Snapshotter.Name()})
			require.Contains(t, resources, leases.Resource{ID: again.String(), Type: "content"})
			require.NoError(t, env.GC(ctx))
			require.Empty(t, snapshotNames(t, env), "the lost tree is collected")
			_, err := env.Opt.ContentStore.Info(ctx, again)
			require.NoError(t, err)
			env.Reopen()
			require.Empty(t, r.takeTexts())
		})
	}
}

// withRecipe makes a layer with a blob, which it returns as well, and another record that shares its snapshot.
func withRecipe(t *testing.T, env *testutil.Env) (layer cache.ImmutableRef, blob digest.Digest, sharing string) {
	t.Helper()
	layer = finalizedLayer(t, env, nil)
	data := []byte("the layer as a blob")
	desc := ocispecs.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	lm := env.Opt.LeaseManager
	resources := []leases.Resource{
		{ID: desc.Digest.String(), Type: "content"}, {ID: layer.ID(), Type: "snapshots/" + env.Opt.Snapshotter.Name()},
	}
	l, err := lm.Create(ctx, leases.WithID("sharing"), leases.WithLabels(map[string]string{"containerd.io/gc.flat": "now"}))
	require.NoError(t, err)
	for _, r := range resources {
		require.NoError(t, lm.AddResource(ctx, l, r))
	}
	require.NoError(t, lm.AddResource(ctx, leases.Lease{ID: layer.ID()}, resources[0]))
	require.NoError(t, content.WriteBlob(ctx, env.Opt.ContentStore, "ref", bytes.NewReader(data), desc))
	values := map[string]any{
		"cache.blob": desc.Digest.String(), "cache.blobsize": desc.Size, "cache.diffID": desc.Digest.String(),
		"cache.chainID": desc.Digest.String(), "cache.blobChainID": desc.Digest.String(), "cache.blobonly": false,
	}
	editRow(t, env, layer.ID(), values)
	values = maps.Clone(values)
	maps.Copy(values, map[string]any{"cache.snapshot": layer.ID(), "snapshot.committed": true, "cache.createdAt": 1})
	editRow(t, env, "sharing", values)
	return layer, desc.Digest, "sharing"
}

// Spec INIT-3, INIT-10, fault 29, fault 31: a start that fails, wherever, leaves what the next one needs to come to the same end.
func TestStartThatFailsAmongLostTrees(t *testing.T) {
	eachFault(t, errdefs.ErrUnavailable, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
		keep := finalizedLayer(t, env, nil)
		env.Reopen()
		layer, _, sharing := withRecipe(t, env)
		lost := finalizedLayer(t, env, nil)
		env.Reboot()
		return func() error { return env.TryOpen(ctx) }, func(t *testing.T, err error) {
			if err != nil {
				env.Open()
			}
			require.ElementsMatch(t, []string{keep.ID(), layer.ID(), sharing}, slices.Collect(maps.Keys(rowsOf(t, env))))
			require.NoError(t, env.GC(ctx))
			require.Equal(t, []string{keep.ID()}, snapshotNames(t, env))
			require.ElementsMatch(t, []string{keep.ID(), layer.ID(), sharing}, leaseIDs(t, env))
			require.NotContains(t, rowsOf(t, env), lost.ID())
		}
	})
}

// Design section 5: a blob that is gone is no recipe, and one that may be there is no reason to give up the record.
func TestLostTreeWhoseBlobIsGone(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	layer, blob, sharing := withRecipe(t, env)
	elsewhere := finalizedLayer(t, env, nil)
	editRow(t, env, elsewhere.ID(), map[string]any{"cache.blob": digest.FromString("elsewhere").String(), "cache.blobonly": true})
	env.Reboot()
	unknown := env.Faults.FailOp(fault.OpContentInfo, errdefs.ErrUnavailable)
	require.True(t, errdefs.IsUnavailable(env.TryOpen(ctx)))
	unknown.Remove()
	require.Len(t, closedRows(t, env.Dir), 3, "not known is not gone")

	gone := env.Faults.FailOp(fault.OpContentInfo, errdefs.ErrNotFound)
	env.Open()
	gone.Remove()
	rows := rowsOf(t, env)
	require.NotContains(t, rows, layer.ID())
	require.NotContains(t, rows, sharing)
	require.Contains(t, rows, elsewhere.ID(), "somebody may know where to get it")
	require.Equal(t, []string{elsewhere.ID()}, leaseIDs(t, env))
	require.NoError(t, env.GC(ctx))
	_, err := env.Opt.ContentStore.Info(ctx, blob)
	require.True(t, errdefs.IsNotFound(err))
	require.Empty(t, snapshotNames(t, env))
}

// Spec INIT-12, design section 5: Check and Repair have nothing to say about marks.
func TestCheckAcceptsMarks(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	w := write(t, env, nil)
	found, err := env.Manager.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: w.layer.ID()}))
	found, err = env.Manager.Check(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, found)
	_, err = env.Manager.Repair(ctx, found...)
	require.NoError(t, err)
	require.ElementsMatch(t, w.all, marked(t, env))
}

// Design section 5, fault 8: a lost tree whose blob is here is extracted again and not found in place, though it still had the name that
// the next one to look for it by its chain would use.
func TestLostTreeIsExtractedAgain(t *testing.T) {
	for _, name := range []string{"native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, backends[name]...)
			r := newRegistry()
			desc := r.layer(t, "gzip", tree.File("f", "good"))
			ref := byBlob(t, env, r, desc, nil)
			require.NoError(t, ref.Extract(ctx, nil))
			requireFile(t, ref, "f", "good")
			release(t, ref)
			before := rowsOf(t, env)[ref.ID()]["cache.snapshot"]
			require.NotEmpty(t, before)
			editRow(t, env, ref.ID(), map[string]any{keyUnsynced: "another boot"})
			spoiled := 0
			require.NoError(t, filepath.WalkDir(filepath.Join(env.Dir, "snapshots"), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Name() == "f" {
					spoiled++
					err = os.Truncate(path, 0) // as a filesystem leaves it
				}
				return err
			}))
			require.Equal(t, 1, spoiled)
			env.Reboot()
			env.Open()
			require.NotEqual(t, before, rowsOf(t, env)[ref.ID()]["cache.snapshot"])
			again := byBlob(t, env, r, desc, nil)
			require.Equal(t, ref.ID(), again.ID())
			requireFile(t, again, "f", "good")
			release(t, again)
		})
	}
}
