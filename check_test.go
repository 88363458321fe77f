package cache_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

func check(t *testing.T, env *testutil.Env) []cache.Finding {
	t.Helper()
	found, err := env.Manager.Check(ctx)
	require.NoError(t, err)
	return found
}

// requireFound compares findings without their sentences, which have to name the subject.
func requireFound(t *testing.T, found []cache.Finding, want ...cache.Finding) {
	t.Helper()
	got := make([]cache.Finding, len(found))
	for i, f := range found {
		require.Contains(t, f.Text, f.Record)
		require.Contains(t, f.String(), f.Text)
		got[i] = f
		got[i].Text = ""
	}
	require.ElementsMatch(t, want, got, "%v", found)
}

func finding(kind cache.FindingKind, record, subject string, repair cache.RepairKind) cache.Finding {
	return cache.Finding{Kind: kind, Record: record, Subject: subject, Repair: repair}
}

// keepRow returns a function that puts a row back as it is now.
func keepRow(t *testing.T, env *testutil.Env, id string) (restore func()) {
	t.Helper()
	it, ok := env.Opt.MetadataStore.Get(id)
	require.True(t, ok)
	values := map[string]metadata.Value{}
	for _, k := range it.Keys() {
		values[k] = *it.Get(k)
	}
	return func() {
		require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
			if err := w.Remove(id); err != nil {
				return err
			}
			row, err := w.Create(id)
			for k, v := range values {
				if err == nil {
					err = row.SetRaw(k, v)
				}
			}
			return err
		}))
	}
}

// addRow stores an immutable row that no record in memory has.
func addRow(t *testing.T, env *testutil.Env, id string, values map[string]any) (remove func()) {
	t.Helper()
	all := map[string]any{"cache.createdAt": 1, "snapshot.committed": true, "cache.snapshot": id}
	for k, v := range values {
		all[k] = v
	}
	editRow(t, env, id, all)
	return func() { require.NoError(t, env.Opt.MetadataStore.Clear(id)) }
}

// ourLabels are those of a lease of the store.
func ourLabels(t *testing.T, env *testutil.Env, record string) map[string]string {
	t.Helper()
	id, err := env.Opt.MetadataStore.StoreID()
	require.NoError(t, err)
	return map[string]string{"layercache.io/store": id, "layercache.io/record": record, "containerd.io/gc.flat": "now"}
}

func addLease(t *testing.T, env *testutil.Env, id string, labels map[string]string, rs ...leases.Resource) {
	t.Helper()
	l, err := env.Opt.LeaseManager.Create(ctx, leases.WithID(id), leases.WithLabels(labels))
	require.NoError(t, err)
	for _, r := range rs {
		require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, l, r))
	}
}

func dropLease(t *testing.T, env *testutil.Env, id string) {
	t.Helper()
	require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: id}))
}

func snapshotResource(env *testutil.Env, id string) leases.Resource {
	return leases.Resource{ID: id, Type: "snapshots/" + env.Opt.Snapshotter.Name()}
}

// sealedPair makes a committed, idle record.
func sealedPair(t *testing.T, env *testutil.Env) (immID, mutID string) {
	t.Helper()
	imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	mutID = mutableID(t, env, imm)
	release(t, imm)
	return imm.ID(), mutID
}

// writeBlob stores a blob.
func writeBlob(t *testing.T, env *testutil.Env, text string, opts ...content.Opt) string {
	t.Helper()
	dgst := digest.FromString(text)
	err := content.WriteBlob(ctx, env.Opt.ContentStore, dgst.String(), strings.NewReader(text),
		ocispecs.Descriptor{Digest: dgst, Size: int64(len(text))}, opts...)
	require.NoError(t, err)
	return dgst.String()
}

// withBlob makes a finalized record that has a blob, and loads it.
func withBlob(t *testing.T, env *testutil.Env, dgst string) (id string) {
	t.Helper()
	id = finalizedLayer(t, env, nil).ID()
	editRow(t, env, id, map[string]any{"cache.blob": dgst, "cache.diffID": dgst, "cache.layerIdentity": dgst, "cache.blobsize": 1})
	if digest.Digest(dgst).Validate() == nil {
		require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: dgst, Type: "content"}))
	}
	env.Reopen()
	return id
}

// provoked is something wrong. do brings it about, and returns what is to be found and, where that cannot
// all be repaired, how to make an end of it.
type provoked func(t *testing.T, env *testutil.Env) (want []cache.Finding, undo func())

func one(f cache.Finding, undo func()) ([]cache.Finding, func()) { return []cache.Finding{f}, undo }

// provocations are those that every backend allows.
var provocations = map[string]provoked{
	"row missing": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		parent := finalizedLayer(t, env, nil)
		child := finalizedLayer(t, env, parent)
		undo := keepRow(t, env, parent.ID())
		require.NoError(t, env.Opt.MetadataStore.Clear(parent.ID()))
		return []cache.Finding{
			finding(cache.FindingRowMissing, parent.ID(), parent.ID(), ""),
			finding(cache.FindingParentMissing, child.ID(), parent.ID(), ""),
		}, undo
	},
	"row unknown": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		return one(finding(cache.FindingRowUnknown, "stranger", "stranger", ""), addRow(t, env, "stranger", nil))
	},
	"row of a commit that failed": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		release(t, mut)
		addRow(t, env, "left", map[string]any{"cache.equalMutable": mut.ID()})
		return one(finding(cache.FindingRowUnknown, "left", "left", cache.RepairRemoveRow), nil)
	},
	"two halves": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		_, mutID := sealedPair(t, env)
		addRow(t, env, "left", map[string]any{"cache.equalMutable": mutID})
		return one(finding(cache.FindingTwoHalves, "left", "left", cache.RepairRemoveRow), nil)
	},
	"two halves with data": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		_, mutID := sealedPair(t, env)
		other := finalizedLayer(t, env, nil)
		remove := addRow(t, env, "left", map[string]any{"cache.equalMutable": mutID, "cache.snapshot": other.ID()})
		return one(finding(cache.FindingTwoHalves, "left", "left", ""), remove)
	},
	"parent of an unknown row": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		return one(finding(cache.FindingParentMissing, "child", "nowhere", ""), addRow(t, env, "child", map[string]any{"cache.parent": "nowhere"}))
	},
	"contradictions": contradictions,
	"marked in memory": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		editRow(t, env, id, map[string]any{"cache.deleted": true})
		return one(finding(cache.FindingMarkedDeleted, id, id, cache.RepairClearMark), nil)
	},
	"deletion interrupted": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		parent := finalizedLayer(t, env, nil)
		child := finalizedLayer(t, env, parent)
		env.Faults.FailOp(fault.OpLeaseDelete, errdefs.ErrUnavailable)
		err := env.Manager.Prune(ctx, nil, usage.PruneInfo{Filter: []string{"id==" + child.ID()}})
		require.True(t, errdefs.IsUnavailable(err), "%v", err)
		env.Faults.Reset()
		return one(finding(cache.FindingMarkedDeleted, child.ID(), child.ID(), cache.RepairFinishDeletion), nil)
	},
	"marked under a row": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		removeParent := addRow(t, env, "going", map[string]any{"cache.deleted": true})
		removeChild := addRow(t, env, "upon", map[string]any{"cache.parent": "going"})
		return []cache.Finding{
			finding(cache.FindingMarkedDeleted, "going", "going", ""),
			finding(cache.FindingRowUnknown, "upon", "upon", ""),
		}, func() { removeParent(); removeChild() }
	},
	"rows not finalized": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		env.Faults.FailOp(fault.OpDBUpdate, errBackend)
		require.ErrorIs(t, imm.Finalize(ctx), errBackend)
		env.Faults.Reset()
		release(t, imm)
		return one(finding(cache.FindingHalfFinalized, imm.ID(), imm.ID(), cache.RepairFinishFinalize), nil)
	},
	"snapshot committed by somebody": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		immID, mutID := sealedPair(t, env)
		require.NoError(t, env.Opt.Snapshotter.Commit(ctx, immID, mutID))
		return one(finding(cache.FindingHalfFinalized, immID, immID, cache.RepairFinishFinalize), nil)
	},
	"half of a record that is no more": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		editRow(t, env, id, map[string]any{"cache.equalMutable": "gone"})
		return one(finding(cache.FindingHalfFinalized, id, id, cache.RepairFinishFinalize), nil)
	},
	"leases missing": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		imm := finalizedLayer(t, env, nil)
		_, mutID := sealedPair(t, env)
		dropLease(t, env, imm.ID())
		dropLease(t, env, mutID)
		return []cache.Finding{
			finding(cache.FindingLeaseMissing, imm.ID(), imm.ID(), cache.RepairCreateLease),
			finding(cache.FindingLeaseMissing, mutID, mutID, cache.RepairCreateLease),
		}, nil
	},
	"view without lease": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		ref := get(t, env, id)
		_, err := ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		t.Cleanup(func() { release(t, ref) })
		dropLease(t, env, id+"-view")
		return one(finding(cache.FindingLeaseMissing, id, id+"-view", cache.RepairCreateLease), nil)
	},
	"lease incomplete": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		require.NoError(t, env.Opt.LeaseManager.DeleteResource(ctx, leases.Lease{ID: id}, snapshotResource(env, id)))
		return one(finding(cache.FindingLeaseIncomplete, id, id, cache.RepairCompleteLease), nil)
	},
	"lease not flat": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		dropLease(t, env, id)
		addLease(t, env, id, nil, snapshotResource(env, id))
		return one(finding(cache.FindingLeaseNotFlat, id, id, cache.RepairRecreateLease), nil)
	},
	"lease unneeded": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		immID, _ := sealedPair(t, env)
		addLease(t, env, immID, ourLabels(t, env, immID))
		return one(finding(cache.FindingLeaseUnneeded, immID, immID, cache.RepairDeleteLease), nil)
	},
	"lease orphaned": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		addLease(t, env, "orphan", ourLabels(t, env, "gone"))
		return one(finding(cache.FindingLeaseOrphaned, "gone", "orphan", cache.RepairDeleteLease), nil)
	},
	"mutable half's lease left": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		mutID := mutableID(t, env, imm)
		require.NoError(t, imm.Finalize(ctx))
		release(t, imm)
		addLease(t, env, mutID, ourLabels(t, env, mutID))
		return one(finding(cache.FindingLeaseOrphaned, mutID, mutID, cache.RepairDeleteLease), nil)
	},
	"lease unknown": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		addLease(t, env, "what", ourLabels(t, env, id))
		return one(finding(cache.FindingLeaseUnknown, id, "what", ""), func() { dropLease(t, env, "what") })
	},
	"temporary lease": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		labels := ourLabels(t, env, id)
		labels["buildkit/lease.temporary"] = "now"
		addLease(t, env, "work", labels)
		return one(finding(cache.FindingLeaseTemporary, id, "work", cache.RepairDeleteLease), nil)
	},
	"view lease stale": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		ref := get(t, env, id)
		_, err := ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		env.Faults.FailOp(fault.OpLeaseDelete, errBackend)
		require.ErrorIs(t, ref.Release(ctx), errBackend)
		env.Faults.Reset()
		return one(finding(cache.FindingViewLeaseStale, id, id+"-view", cache.RepairDeleteLease), nil)
	},
	"blob missing": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		dgst := digest.FromString("gone").String()
		id := withBlob(t, env, dgst)
		return one(finding(cache.FindingBlobMissing, id, dgst, ""), func() { writeBlob(t, env, "gone") })
	},
	"no blob of that name": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := withBlob(t, env, "sha256:nonsense")
		return one(finding(cache.FindingBlobMissing, id, "sha256:nonsense", ""), func() {
			editRow(t, env, id, map[string]any{"cache.blob": nil})
			env.Reopen()
		})
	},
	"variants": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		other := writeBlob(t, env, "other")
		dgst := writeBlob(t, env, "own", content.WithLabels(map[string]string{"containerd.io/gc.ref.content.blob-" + other: other}))
		id := withBlob(t, env, dgst)
		return one(finding(cache.FindingVariantsUnleased, id, id+"-variants", cache.RepairCreateLease), nil)
	},
	"index": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		ref := get(t, env, id)
		require.NoError(t, ref.SetString("k", "v", "i"))
		release(t, ref)
		require.NoError(t, env.Opt.MetadataStore.DB().Update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("_index"))
			if err := b.Delete([]byte("i::" + id)); err != nil {
				return err
			}
			return b.Put([]byte("j::"+id), nil)
		}))
		return []cache.Finding{
			finding(cache.FindingIndexMissing, id, "i::"+id, cache.RepairReindex),
			finding(cache.FindingIndexOrphaned, id, "j::"+id, cache.RepairReindex),
		}, nil
	},
}

func contradictions(t *testing.T, env *testutil.Env) (want []cache.Finding, undo func()) {
	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	release(t, mut)
	good := finalizedLayer(t, env, nil)
	var removes []func()
	for id, values := range map[string]map[string]any{
		"self":           {"cache.parent": "self"},
		"ring1":          {"cache.parent": "ring2"},
		"ring2":          {"cache.parent": "ring3"},
		"ring3":          {"cache.parent": "ring1"},
		"on-ring":        {"cache.mergeParents": []string{good.ID(), "ring2"}},
		"on-mutable":     {"cache.parent": mut.ID()},
		"above":          {"cache.lowerDiffParent": "on-mutable"},
		"half-of-itself": {"cache.equalMutable": "half-of-itself"},
		"half-of-imm":    {"cache.equalMutable": good.ID()},
	} {
		removes = append(removes, addRow(t, env, id, values))
		want = append(want, finding(cache.FindingRowContradicts, id, id, ""))
	}
	return want, func() {
		for _, remove := range removes {
			remove()
		}
	}
}

// onDoubles are those that only a backend in memory allows.
var onDoubles = map[string]provoked{
	"snapshot missing": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		release(t, mut)
		require.NoError(t, env.Double.LoseSnapshot(id))
		require.NoError(t, env.Double.LoseSnapshot(mut.ID()))
		return []cache.Finding{
			finding(cache.FindingSnapshotMissing, id, id, ""),
			finding(cache.FindingSnapshotMissing, mut.ID(), mut.ID(), ""),
		}, func() { prune(t, env, usage.PruneInfo{}) }
	},
	"snapshot of the wrong kind": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		id := finalizedLayer(t, env, nil).ID()
		require.NoError(t, env.Double.LoseSnapshot(id))
		require.NoError(t, env.Opt.Snapshotter.Prepare(ctx, id, ""))
		return one(finding(cache.FindingSnapshotKind, id, id, ""), func() { prune(t, env, usage.PruneInfo{}) })
	},
	"snapshot on the wrong parent": func(t *testing.T, env *testutil.Env) ([]cache.Finding, func()) {
		parent := finalizedLayer(t, env, nil)
		child, base := finalizedLayer(t, env, parent), finalizedLayer(t, env, nil)
		sn := env.Opt.Snapshotter
		require.NoError(t, env.Double.LoseSnapshot(child.ID()))
		require.NoError(t, sn.Prepare(ctx, "tmp", ""))
		require.NoError(t, sn.Commit(ctx, child.ID(), "tmp"))
		require.NoError(t, env.Double.LoseSnapshot(base.ID()))
		require.NoError(t, sn.Prepare(ctx, "tmp", parent.ID()))
		require.NoError(t, sn.Commit(ctx, base.ID(), "tmp"))
		return []cache.Finding{
			finding(cache.FindingSnapshotParent, child.ID(), child.ID(), ""),
			finding(cache.FindingSnapshotParent, base.ID(), base.ID(), ""),
		}, func() { prune(t, env, usage.PruneInfo{}) }
	},
}

// runProvoked provokes something beside sound records of every kind, and requires that Check finds it and nothing else, that
// Repair repairs what it says it would, and that nothing but the rest is found afterwards.
func runProvoked(t *testing.T, env *testutil.Env, provoke provoked) {
	t.Helper()
	base := finalizedLayer(t, env, nil)
	sealedPair(t, env)
	release(t, newMutable(t, env, base, cache.CachePolicyRetain))
	require.Empty(t, check(t, env))
	want, undo := provoke(t, env)
	found := check(t, env)
	requireFound(t, found, want...)

	left := slices.DeleteFunc(slices.Clone(found), func(f cache.Finding) bool { return f.Repair != cache.RepairNone })
	repaired := slices.DeleteFunc(slices.Clone(found), func(f cache.Finding) bool { return f.Repair == cache.RepairNone })
	env.Faults.Reset()
	done, err := env.Manager.Repair(ctx, found...)
	require.NoError(t, err)
	require.ElementsMatch(t, repaired, done)
	require.ElementsMatch(t, left, check(t, env))
	env.Faults.Reset()
	done, err = env.Manager.Repair(ctx, found...)
	require.NoError(t, err)
	require.Empty(t, done, "what is repaired is left alone")
	require.Zero(t, env.Faults.Count(fault.OpDBUpdate)+env.Faults.Count(fault.OpLeaseCreate)+env.Faults.Count(fault.OpLeaseDelete))
	if undo != nil {
		undo()
	}
	require.Empty(t, check(t, env))
	require.NoError(t, env.GC(ctx))
	require.Empty(t, check(t, env), "nothing that is needed was collected")
}

// Spec INIT-2, INIT-5, INIT-10, INIT-11, REC-5, REC-6, REF-14, LEASE-1, LEASE-2, VAR-1, META-6, quirks Q20, Q76, fault 43: every
// kind of finding is found, exactly, and repaired where there is one safe repair.
func TestCheckFindsAndRepairs(t *testing.T) {
	for name, provoke := range provocations {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) { runProvoked(t, env, provoke) })
		})
	}
	for name, provoke := range onDoubles {
		for backend, opts := range faultBackends {
			t.Run(name+"/"+backend, func(t *testing.T) { runProvoked(t, testutil.New(t, opts...), provoke) })
		}
	}
}

// Spec MV-1, 1.2: memory that shows another value than the row is found for each known key; a row that memory is
// ahead of is as it should be (spec REF-3).
func TestCheckComparesEveryKey(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	dgst := writeBlob(t, env, "blob")
	id := withBlob(t, env, dgst)
	parent := finalizedLayer(t, env, nil)
	for key, value := range map[string]any{
		"cache.createdAt": 1, "cache.description": "x", "cache.recordType": "x", "cache.layerType": "x", "cache.cachePolicy": 1,
		"snapshot.committed": false, "cache.snapshot": "x", "cache.parent": parent.ID(), "cache.mergeParents": []string{parent.ID()},
		"cache.lowerDiffParent": parent.ID(), "cache.upperDiffParent": parent.ID(), "cache.diffID": "x", "cache.layerIdentity": "x",
		"cache.chainID": "x", "cache.blobChainID": "x", "cache.blob": "x", "cache.blobonly": true, "cache.blobsize": 7,
		"cache.mediatype": "x", "cache.layer.urls": []string{"x"}, "cache.imageRefs": []string{"x"},
		"cache.usageCount": 1000, "cache.lastUsedAt": int64(1) << 62,
	} {
		restore := keepRow(t, env, id)
		editRow(t, env, id, map[string]any{key: value})
		requireFound(t, check(t, env), finding(cache.FindingRowDiffers, id, id, ""))
		restore()
		require.Empty(t, check(t, env), key)
	}

	immID, _ := sealedPair(t, env)
	restore := keepRow(t, env, immID)
	editRow(t, env, immID, map[string]any{"cache.equalMutable": id})
	requireFound(t, check(t, env), finding(cache.FindingRowDiffers, immID, immID, ""))
	restore()
	restore = keepRow(t, env, id)
	editRow(t, env, id, map[string]any{"cache.equalMutable": immID})
	requireFound(t, check(t, env), finding(cache.FindingRowDiffers, id, id, ""))
	restore()

	for range 3 {
		release(t, get(t, env, id)) // uses that are not written yet
	}
	_, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
	require.NoError(t, err)
	require.Empty(t, check(t, env))
	require.NoError(t, env.Opt.MetadataStore.Flush())
	require.Empty(t, check(t, env))
}

// Spec REC-5, INIT-4, MGR-27: a lazy record may lack its snapshot and its blob, but not its lease; one that has a snapshot
// has a committed one.
func TestCheckOfLazyRecords(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	dgst := digest.FromString("elsewhere").String()
	addRow(t, env, "lazy", map[string]any{"cache.blob": dgst, "cache.blobonly": true, "cache.snapshot": "chain"})
	flat := map[string]string{"containerd.io/gc.flat": "now"}
	addLease(t, env, "lazy", flat, snapshotResource(env, "chain"), leases.Resource{ID: dgst, Type: "content"})
	base := finalizedLayer(t, env, nil)
	addRow(t, env, "merge", map[string]any{"cache.mergeParents": []string{base.ID(), base.ID()}})
	addLease(t, env, "merge", flat, snapshotResource(env, "merge"))
	env.Reopen()
	require.Empty(t, check(t, env))
	require.NoError(t, env.Opt.LeaseManager.DeleteResource(ctx, leases.Lease{ID: "lazy"}, leases.Resource{ID: dgst, Type: "content"}))
	requireFound(t, check(t, env), finding(cache.FindingLeaseIncomplete, "lazy", "lazy", cache.RepairCompleteLease))
	_, err := env.Manager.Repair(ctx, check(t, env)...)
	require.NoError(t, err)
	require.NoError(t, env.Opt.Snapshotter.Prepare(ctx, "chain", ""))
	requireFound(t, check(t, env), finding(cache.FindingSnapshotKind, "lazy", "chain", ""))
	require.NoError(t, env.Opt.Snapshotter.Commit(ctx, "committed", "chain"))
	require.Empty(t, check(t, env))
	dropLease(t, env, "merge")
	requireFound(t, check(t, env), finding(cache.FindingLeaseMissing, "merge", "merge", cache.RepairCreateLease))
	_, err = env.Manager.Repair(ctx, check(t, env)...)
	require.NoError(t, err)
}

// Spec INIT-11, quirk Q76: other stores' leases and other clients' leases and snapshots are no concern of this cache.
func TestCheckLeavesOthersAlone(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		finalizedLayer(t, env, nil)
		for i, labels := range []map[string]string{
			nil,
			{"layercache.io/store": "another", "layercache.io/record": "x"},
			{"buildkit/lease.temporary": "now"},
			{"layercache.io/record": "x"},
		} {
			id := fmt.Sprintf("other%d", i)
			addLease(t, env, id, labels, snapshotResource(env, "theirs"))
			defer dropLease(t, env, id)
		}
		require.NoError(t, env.Opt.Snapshotter.Prepare(ctx, "theirs", ""))
		require.Empty(t, check(t, env))
	})
}

// Spec INIT-3, LEASE-4: an error of the backend is the result; nothing is concluded from it. A repair that fails says so, and
// can be done later.
func TestCheckErrors(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	id := withBlob(t, env, writeBlob(t, env, "blob"))
	dropLease(t, env, id)
	for _, op := range []string{
		fault.OpLeaseList, fault.OpSnapshotWalk, fault.OpSnapshotStat, fault.OpContentInfo, fault.OpDBView,
	} {
		env.Faults.FailOp(op, errdefs.ErrUnavailable)
		found, err := env.Manager.Check(ctx)
		require.True(t, errdefs.IsUnavailable(err), "%s: %v", op, err)
		require.Nil(t, found)
		env.Faults.Reset()
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := env.Manager.Check(ended)
	require.ErrorIs(t, err, context.Canceled)

	found := check(t, env)
	requireFound(t, found, finding(cache.FindingLeaseMissing, id, id, cache.RepairCreateLease))
	for _, op := range []string{fault.OpLeaseCreate, fault.OpLeaseAddResource, fault.OpSnapshotStat, fault.OpDBView} {
		env.Faults.FailOp(op, errdefs.ErrUnavailable)
		done, err := env.Manager.Repair(ctx, found...)
		require.True(t, errdefs.IsUnavailable(err), "%s: %v", op, err)
		require.Contains(t, err.Error(), id)
		require.Empty(t, done)
		env.Faults.Reset()
	}
	done, err := env.Manager.Repair(ctx, found...)
	require.NoError(t, err)
	require.Equal(t, found, done)
	env.Faults.FailOp(fault.OpLeaseListResources, errdefs.ErrUnavailable)
	_, err = env.Manager.Check(ctx)
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	env.Faults.Reset()

	_, err = env.Manager.Repair(ctx, cache.Finding{Kind: "no such kind"}, found[0])
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	for _, made := range []cache.Finding{
		{Kind: cache.FindingLeaseOrphaned, Record: id, Subject: id, Repair: cache.RepairDeleteLease},
		{Kind: cache.FindingMarkedDeleted, Record: id, Subject: id, Repair: cache.RepairFinishDeletion},
		{Kind: cache.FindingRowUnknown, Record: "none", Subject: "none", Repair: cache.RepairRemoveRow},
		{Kind: cache.FindingIndexOrphaned, Subject: "i::" + id, Repair: cache.RepairReindex},
	} {
		done, err := env.Manager.Repair(ctx, made)
		require.NoError(t, err)
		require.Empty(t, done, "a finding that is not true")
	}
	require.Empty(t, check(t, env))

	require.NoError(t, env.Manager.Close())
	_, err = env.Manager.Check(ctx)
	require.ErrorIs(t, err, cache.ErrClosed)
	_, err = env.Manager.Repair(ctx, found...)
	require.ErrorIs(t, err, cache.ErrClosed)
	require.NoError(t, env.Close())
	env.Open()
}
