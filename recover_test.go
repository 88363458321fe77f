package cache_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// finalizedLayer makes a finalized record and lets go of it.
func finalizedLayer(t *testing.T, env *testutil.Env, parent cache.ImmutableRef) cache.ImmutableRef {
	t.Helper()
	imm := testutil.MakeLayer(t, env, parent, nil)
	require.NoError(t, imm.Finalize(ctx))
	release(t, imm)
	return imm
}

// editRow changes a row behind the manager's back; nil removes a key, and a new row is made if need be.
func editRow(t testing.TB, env *testutil.Env, id string, values map[string]any) {
	t.Helper()
	require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
		row, err := w.Row(id)
		if errdefs.IsNotFound(err) {
			row, err = w.Create(id)
		}
		if err != nil {
			return err
		}
		for k, v := range values {
			if v == nil {
				err = row.Clear(k)
			} else {
				err = row.Set(k, v, "")
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

func requireRecords(t *testing.T, env *testutil.Env, refs ...cache.ImmutableRef) {
	t.Helper()
	var want, got []string
	for _, r := range refs {
		want = append(want, r.ID())
	}
	for id := range usageByID(t, env) {
		got = append(got, id)
	}
	require.ElementsMatch(t, want, got)
}

// Spec INIT-1, LOCK-2: opening clean records writes nothing, lists the leases once, and asks for mutable records only.
func TestOpeningCleanRecordsIsCheap(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		a := finalizedLayer(t, env, nil)
		finalizedLayer(t, env, a)
		release(t, testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain))
		release(t, newMutable(t, env, a, cache.CachePolicyRetain))
		require.NoError(t, env.Close())
		env.Faults.Reset()
		env.Open()
		require.Equal(t, 0, env.Faults.Count("db.Update"), env.Faults.Trace())
		require.Equal(t, 0, env.Faults.Count("transaction.*"))
		require.Equal(t, 1, env.Faults.Count("leases.*"))
		require.Equal(t, 2, env.Faults.Count("snapshots.*"), "one Stat a mutable record")
		requireUsage(t, env, 0, 4)
	})
}

// Spec INIT-2, REF-9: a deletion that a crash interrupted is finished; its children go with it.
func TestInterruptedDeletionIsFinished(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		keep := finalizedLayer(t, env, nil)
		doomed := finalizedLayer(t, env, keep)
		finalizedLayer(t, env, doomed)
		editRow(t, env, doomed.ID(), map[string]any{"cache.deleted": true})
		env.Crash()
		env.Open()
		requireRecords(t, env, keep)
		require.Equal(t, []string{keep.ID()}, leaseIDs(t, env))
	})
}

// Spec INIT-2: a mutable record without its snapshot goes.
func TestMutableRecordWithoutSnapshotGoes(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	release(t, mut)
	require.NoError(t, env.Double.LoseSnapshot(mut.ID()))
	env.Reopen()
	requireUsage(t, env, 0, 0)
	require.Empty(t, leaseIDs(t, env))
}

// Spec INIT-3, scenario S-26, quirk Q74, fault 31: an error that is not "not found" fails the start and
// costs nothing.
func TestTransientErrorAtStartKeepsEverything(t *testing.T) {
	for _, op := range []string{"snapshots.Stat", "leases.List", "db.View"} {
		t.Run(op, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles())
			a := finalizedLayer(t, env, nil)
			mut := newMutable(t, env, a, cache.CachePolicyRetain)
			release(t, mut)
			editRow(t, env, mut.ID(), map[string]any{"foreign": "kept"})
			require.NoError(t, env.Close())

			env.Faults.Reset()
			env.Faults.FailOp(op, errdefs.ErrUnavailable)
			require.True(t, errdefs.IsUnavailable(env.TryOpen(ctx)))
			require.Zero(t, env.Faults.Count("db.Update"))
			require.Zero(t, env.Faults.Count("leases.Delete"))
			env.Faults.Reset()
			env.Open()
			requireUsage(t, env, 0, 2)
			got, err := env.Manager.GetMutable(ctx, mut.ID())
			require.NoError(t, err)
			require.Equal(t, "kept", got.GetString("foreign"))
			release(t, got)
		})
	}
}

// Spec INIT-7, INIT-2, scenario S-5: a record goes with a parent that is gone, and the parents that
// are there are not held.
func TestBrokenParent(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	a, b := finalizedLayer(t, env, nil), finalizedLayer(t, env, nil)
	editRow(t, env, "merge", map[string]any{
		"cache.mergeParents": []string{a.ID(), b.ID()}, "snapshot.committed": true, "cache.createdAt": 1, "cache.snapshot": "merge",
	})
	env.Crash()
	env.Open()
	require.Equal(t, []string{a.ID(), b.ID()}, usageByID(t, env)["merge"].Parents, "a sound merge is loaded")
	require.NoError(t, env.Opt.MetadataStore.Clear(b.ID()))
	env.Crash()
	env.Open()
	requireRecords(t, env, a)
	require.Len(t, prune(t, env, usage.PruneInfo{}), 1, "nothing holds it")
}

// Spec INIT-9, REC-1, REC-2, REC-8, OLD-2: merges and diffs of old databases have no committed flag,
// older records no snapshot ID.
func TestHistoricRows(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	a, b := finalizedLayer(t, env, nil), finalizedLayer(t, env, nil)
	editRow(t, env, "merge", map[string]any{"cache.mergeParents": []string{a.ID(), b.ID(), a.ID()}, "cache.createdAt": 1})
	editRow(t, env, "diff", map[string]any{"cache.lowerDiffParent": a.ID(), "cache.upperDiffParent": b.ID(), "cache.createdAt": 1})
	editRow(t, env, a.ID(), map[string]any{"cache.snapshot": nil})
	env.Crash()
	env.Open()
	got := usageByID(t, env)
	require.False(t, got["merge"].Mutable)
	require.Equal(t, []string{a.ID(), b.ID(), a.ID()}, got["merge"].Parents)
	require.False(t, got["diff"].Mutable)
	require.Equal(t, []string{a.ID(), b.ID()}, got["diff"].Parents)
	ref, err := env.Manager.Get(ctx, a.ID(), nil)
	require.NoError(t, err)
	testutil.WithMount(t, ref, true, func(string) {})

	merge, err := env.Manager.Get(ctx, "merge", nil)
	require.NoError(t, err)
	testutil.WithMount(t, merge, true, func(string) {})
	diff, err := env.Manager.Get(ctx, "diff", nil)
	require.NoError(t, err)
	testutil.WithMount(t, diff, true, func(string) {})
	chain := merge.LayerChain() // spec REF-19, WALK-1
	require.Len(t, chain, 3)
	require.NoError(t, chain.Release(ctx))
	require.Equal(t, cache.RefList{nil, nil, nil}, chain)
	release(t, merge, diff, ref)
}

// Spec INIT-8, scenario S-31, quirk Q73: links made at load are no use of the parents.
func TestLoadingIsNoUse(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	parent := finalizedLayer(t, env, nil)
	child := finalizedLayer(t, env, parent)
	env.Reopen()
	before := usageByID(t, env)[parent.ID()]
	env.Clock.Advance(1e9)
	require.Len(t, prune(t, env, usage.PruneInfo{Filter: []string{"id==" + child.ID()}}), 1)
	after := usageByID(t, env)[parent.ID()]
	require.Equal(t, before, after)
}

// Spec INIT-10: a record whose lease is gone gets it again, before anything can be collected.
func TestMissingLeaseIsMadeAnew(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		a := finalizedLayer(t, env, nil)
		mut := newMutable(t, env, a, cache.CachePolicyRetain)
		release(t, mut)
		for _, id := range leaseIDs(t, env) {
			require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: id}))
		}
		env.Reopen()
		require.NoError(t, env.GC(ctx))
		require.ElementsMatch(t, []string{a.ID(), mut.ID()}, leaseIDs(t, env))
		require.ElementsMatch(t, []string{a.ID(), mut.ID()}, snapshotNames(t, env))
	})
}

// Spec INIT-10, INIT-2: where nothing is left to lease, the record goes.
func TestRecordWithoutLeaseAndSnapshotGoes(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		a := finalizedLayer(t, env, nil)
		require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: a.ID()}))
		require.NoError(t, env.GC(ctx))
		env.Reopen()
		requireUsage(t, env, 0, 0)
	})
}

// Spec INIT-11, quirk Q76: a lease of this store whose record never came to be is deleted; others' are not touched.
func TestOrphanedLeases(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		storeID, err := env.Opt.MetadataStore.StoreID()
		require.NoError(t, err)
		lm := env.Opt.LeaseManager
		for id, labels := range map[string]map[string]string{
			"orphan":       {"layercache.io/store": storeID, "layercache.io/record": "orphan"},
			"other store":  {"layercache.io/store": "another", "layercache.io/record": "x"},
			"other client": nil,
		} {
			_, err := lm.Create(ctx, leases.WithID(id), leases.WithLabels(labels))
			require.NoError(t, err)
		}
		env.Reopen()
		require.ElementsMatch(t, []string{"other store", "other client"}, leaseIDs(t, env))
		for _, id := range leaseIDs(t, env) {
			require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: id}))
		}
	})
}

// Spec INIT-12: what was being written when its process died, and nobody asked to retain, goes.
func TestUnretainedRecordsOfADeadProcessGo(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		newMutable(t, env, nil)
		testutil.MakeLayer(t, env, nil, nil)
		kept := testutil.MakeLayer(t, env, nil, nil)
		require.NoError(t, kept.SetCachePolicyRetain())
		env.Crash()
		env.Open()
		requireUsage(t, env, 0, 1)
		require.NoError(t, env.GC(ctx))
		require.Len(t, snapshotNames(t, env), 1)
		imm, err := env.Manager.Get(ctx, kept.ID(), nil)
		require.NoError(t, err, "either half's policy counts")
		release(t, imm)
	})
}

// Fault 43: rows that contradict themselves are neither loaded nor touched.
func TestContradictoryRowsAreLeftAlone(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	release(t, mut)
	good := finalizedLayer(t, env, nil)
	rows := map[string]map[string]any{
		"self":           {"cache.parent": "self"},
		"ring1":          {"cache.parent": "ring2"},
		"ring2":          {"cache.parent": "ring3"},
		"ring3":          {"cache.parent": "ring1"},
		"on-ring":        {"cache.parent": "ring2"},
		"on-mutable":     {"cache.parent": mut.ID()},
		"half-of-itself": {"cache.equalMutable": "half-of-itself"},
		"half-of-imm":    {"cache.equalMutable": good.ID()},
	}
	for id, values := range rows {
		values["snapshot.committed"], values["cache.createdAt"] = true, 1
		editRow(t, env, id, values)
	}
	env.Crash()
	env.Open()
	for id := range rows {

		_, err := env.Manager.Get(ctx, id, nil)
		require.True(t, cache.IsNotFound(err), "%s: %v", id, err)
		_, ok := env.Opt.MetadataStore.Get(id)
		require.True(t, ok, id)
	}
	requireUsage(t, env, 0, 2)
	for id := range rows {
		require.NoError(t, env.Opt.MetadataStore.Clear(id))
	}
}

// Spec META-13: values of the wrong type count as absent.
func TestRowsWithValuesOfTheWrongType(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	a := finalizedLayer(t, env, nil)
	editRow(t, env, a.ID(), map[string]any{
		"cache.createdAt": "x", "cache.lastUsedAt": []int{1}, "cache.usageCount": true, "cache.description": 7,
		"cache.recordType": 1, "snapshot.size": "big", "cache.cachePolicy": "retain", "cache.parent": 3,
		"cache.mergeParents": "none", "cache.imageRefs": 5, "cache.blobsize": "?", "cache.deleted": "no", "cache.layer.urls": 1,
	})
	env.Crash()
	env.Open()
	u := usageByID(t, env)[a.ID()]
	require.True(t, u.CreatedAt.IsZero())
	require.Nil(t, u.LastUsedAt)
	require.Zero(t, u.UsageCount)
	require.Empty(t, u.Description)
	require.Equal(t, usage.TypeRegular, u.RecordType)
	require.Empty(t, u.Parents)
	editRow(t, env, a.ID(), map[string]any{"cache.deleted": nil})
}

// Spec INIT-5: of two halves that claim one mutable record, which a failed roll-back may leave, the newer counts.
func TestTwoHalvesOfOneRecord(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	mutID := mutableID(t, env, imm)
	release(t, imm)
	editRow(t, env, "older", map[string]any{
		"cache.createdAt": 1, "snapshot.committed": true, "cache.snapshot": "older", "cache.equalMutable": mutID,
	})
	env.Crash()
	env.Open()
	requireUsage(t, env, 0, 1)
	_, err := env.Manager.Get(ctx, "older", nil)
	require.True(t, cache.IsNotFound(err))
	got, err := env.Manager.Get(ctx, imm.ID(), nil)
	require.NoError(t, err)
	release(t, got)
}

// Spec LEASE-6, fault 32: nothing depends on a temporary lease of an earlier process, which an embedder may
// delete, and which a start deletes by itself. A stale view is used, or made anew.
func TestTemporaryLeasesOfADeadProcess(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := finalizedLayer(t, env, nil)
		ref, err := env.Manager.Get(ctx, imm.ID(), nil)
		require.NoError(t, err)
		testutil.WithMount(t, ref, true, func(string) {})
		require.Contains(t, leaseIDs(t, env), imm.ID()+"-view")
		env.Crash()
		env.Open()
		require.Equal(t, []string{imm.ID()}, leaseIDs(t, env), "a start deletes those of its store")
		ref, err = env.Manager.Get(ctx, imm.ID(), nil)
		require.NoError(t, err)
		testutil.WithMount(t, ref, true, func(string) {})
		require.NoError(t, env.GC(ctx))
		testutil.WithMount(t, ref, true, func(string) {})
		release(t, ref)
		require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
	})
}

// Spec INIT-4, quirk Q75: a record whose blob is elsewhere keeps its row and its lease over restarts, also with nobody there
// who could fetch the blob; it just cannot be opened meanwhile.
func TestLazyRecordsSurviveWithoutProviders(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	dgst := digest.FromString("elsewhere")
	editRow(t, env, "lazy", map[string]any{
		"cache.blob": dgst.String(), "cache.blobonly": true, "cache.snapshot": "chain", "snapshot.committed": true, "cache.createdAt": 1,
	})
	lm := env.Opt.LeaseManager
	l, err := lm.Create(ctx, leases.WithID("lazy"), leases.WithLabels(map[string]string{"containerd.io/gc.flat": "now"}))
	require.NoError(t, err)
	require.NoError(t, lm.AddResource(ctx, l, leases.Resource{ID: "chain", Type: "snapshots/" + env.Opt.Snapshotter.Name()}))
	require.NoError(t, lm.AddResource(ctx, l, leases.Resource{ID: dgst.String(), Type: "content"}))
	for range 2 {
		env.Crash()
		env.Faults.Reset()
		env.Open()
		require.Zero(t, env.Faults.Count("db.Update"))
		require.Equal(t, []string{"lazy"}, leaseIDs(t, env))
		requireUsage(t, env, 0, 1)
		_, err := env.Manager.Get(ctx, "lazy", nil)
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, err, &missing)
		require.Equal(t, cache.NeedsRemoteProviderError{dgst}, missing)
		require.Equal(t, []string{"lazy"}, leaseIDs(t, env))
	}
}

// Spec INIT-10, fault 29: where a lease is not made in one transaction, a start that did not get to the end of it leaves it to
// the next, which does not take the half for the whole.
func TestLeaseThatIsMadeAnewIsComplete(t *testing.T) {
	eachFault(t, errdefs.ErrUnavailable, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
		a := finalizedLayer(t, env, nil)
		require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: a.ID()}))
		resource := leases.Resource{ID: a.ID(), Type: "snapshots/" + env.Opt.Snapshotter.Name()}
		env.Crash()
		return func() error { return env.TryOpen(ctx) }, func(t *testing.T, err error) {
			if err != nil {
				env.Open()
			}
			l, listed := leaseOf(t, env, a.ID())
			require.NotNil(t, l)
			require.Equal(t, []leases.Resource{resource}, listed)
			require.Equal(t, []string{a.ID()}, leaseIDs(t, env))
		}
	})
}

// Spec INIT-3: rows and leases are read at the same time; if the rows cannot be read, the start does not wait for the leases.
func TestStartDoesNotWaitForLeasesInVain(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	a := finalizedLayer(t, env, nil)
	require.NoError(t, env.Close())

	env.Faults.Reset()
	listing := env.Faults.BlockOp("leases.List")
	failed := false
	env.Faults.Inject(fault.Match{Op: "db.View", When: fault.After}, func(context.Context, fault.Point) error {
		if env.Faults.Count("db.View") == 1 {
			return nil // that was the store's ID
		}
		<-listing.Entered()
		failed = true
		return errdefs.ErrUnavailable
	})
	require.True(t, errdefs.IsUnavailable(env.TryOpen(ctx)))
	require.True(t, failed)
	env.Faults.Reset()
	env.Open()
	requireRecords(t, env, a)
}
