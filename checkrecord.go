package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// judgement compares one record in memory with evidence.
type judgement struct {
	m   *manager
	in  graph.Inspection
	e   *evidence
	out []fault
}

// judge returns what is wrong with a record that was alive when it was inspected.
func (m *manager) judge(ctx context.Context, in graph.Inspection, e *evidence) ([]fault, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	j := &judgement{m: m, in: in, e: e}
	for _, look := range []func(context.Context) error{j.rows, j.recordLease, j.otherLeases, j.snapshot, j.blob} {
		if err := look(ctx); err != nil {
			return nil, err
		}
	}
	return j.out, nil
}

// add notes a fault of the name id. fix is nil where there is no safe repair.
func (j *judgement) add(kind FindingKind, id, subject string, repair RepairKind, fix func(context.Context) error, format string, args ...any) {
	j.out = append(j.out, fault{
		Finding: Finding{Kind: kind, Record: id, Subject: subject, Repair: repair, Text: fmt.Sprintf(format, args...)},
		fix:     fix,
	})
}

func (j *judgement) rows(context.Context) error {
	for _, half := range halvesOf(j.in) {
		r, err := j.e.row(half.ID)
		if err != nil {
			return err
		}
		if r == nil {
			j.add(FindingRowMissing, half.ID, half.ID, RepairNone, nil, "record %q has no row", half.ID)
			continue
		}
		if r.deleted {
			j.add(FindingMarkedDeleted, half.ID, half.ID, RepairClearMark, j.clear(half.ID, keyDeleted),
				"the row of record %q says that it is deleted, but it is in memory", half.ID)
		}
		if diff := j.differences(half, r); len(diff) > 0 {
			j.add(FindingRowDiffers, half.ID, half.ID, RepairNone, nil,
				"memory and row of record %q differ in %s", half.ID, strings.Join(diff, ", "))
		}
		if err := j.equalMutable(half, r); err != nil {
			return err
		}
		if err := j.parentRows(half, r); err != nil {
			return err
		}
	}
	return nil
}

// clear takes a value out of a row.
func (j *judgement) clear(id, key string) func(context.Context) error {
	return func(context.Context) error {
		return j.m.store.Write(func(w *metadata.Writer) error {
			row, err := w.Row(id)
			if err != nil {
				return err
			}
			return row.Clear(key)
		})
	}
}

// differences names the keys in which a row says something else than memory shows.
func (j *judgement) differences(half *graph.Meta, r *row) []string {
	var diff []string
	differ := func(key string, differs bool) {
		if differs {
			diff = append(diff, key)
		}
	}
	have := r.meta
	differ(keySnapshot, have.SnapshotID != half.SnapshotID)
	differ(keyDescription, have.Description != half.Description)
	differ(keyRecordType, have.RecordType != half.RecordType)
	differ(keyLayerType, have.LayerType != half.LayerType)
	differ(keyImageRefs, !slices.Equal(have.ImageRefs, half.ImageRefs))
	differ(keyCreatedAt, have.CreatedAt != half.CreatedAt)
	differ(keyCachePolicy, have.Retain != half.Retain)
	differ(keyCommitted, r.mutable() != (half == j.in.Mut))
	differ(keyBlob, !sameBlob(have.Blob, half.Blob))
	differ(keyParent, r.kind() != j.in.Kind || !slices.Equal(r.parents(), j.in.Parents))
	if rowAhead(half, have) {
		// What was written since memory was looked at is in memory all the same.
		now := j.m.g.Inspect(j.in.Record)
		for _, again := range halvesOf(now) {
			if again.ID == half.ID {
				differ(keyUsageCount, rowAhead(again, have))
			}
		}
	}
	return diff
}

// rowAhead tells whether a row has a use that memory has not. The other way round is as it should be: uses
// are written some time after memory has them. So are sizes, known and unknown, which are not compared.
func rowAhead(half, row *graph.Meta) bool {
	return row.UsageCount > half.UsageCount || row.LastUsedAt > half.LastUsedAt
}

func sameBlob(a, b *graph.Blob) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.URLs, b.URLs) && a.Digest == b.Digest && a.DiffID == b.DiffID && a.LayerIdentity == b.LayerIdentity &&
		a.ChainID == b.ChainID && a.BlobChainID == b.BlobChainID && a.MediaType == b.MediaType && a.Size == b.Size && a.Only == b.Only
}

// equalMutable looks at what the immutable row says of its mutable half.
func (j *judgement) equalMutable(half *graph.Meta, r *row) error {
	switch {
	case half == j.in.Mut:
	case j.in.State == graph.Sealed && r.equalMutable != j.in.Mut.ID:
		j.add(FindingRowDiffers, half.ID, half.ID, RepairNone, nil,
			"record %q is the committed half of %q, but its row names %q", half.ID, j.in.Mut.ID, r.equalMutable)
	case j.in.State == graph.Sealed && j.in.SnapshotCommitted:
		j.halfFinalized(half)
	case j.in.State != graph.Sealed && r.equalMutable != "":
		mut, err := j.e.row(r.equalMutable)
		if err != nil {
			return err
		}
		if mut == nil {
			j.add(FindingHalfFinalized, half.ID, half.ID, RepairFinishFinalize, j.clear(half.ID, keyEqualMutable),
				"record %q is finalized, but its row names the mutable half %q, which is no more", half.ID, r.equalMutable)
			return nil
		}
		j.add(FindingRowDiffers, half.ID, half.ID, RepairNone, nil,
			"record %q is finalized, but its row names the mutable half %q", half.ID, r.equalMutable)
	}
	return nil
}

func (j *judgement) halfFinalized(imm *graph.Meta) {
	fix := func(ctx context.Context) error { return j.m.finalizeInSlot(ctx, j.in.Record) }
	j.add(FindingHalfFinalized, imm.ID, imm.ID, RepairFinishFinalize, fix,
		"the snapshot of record %q is committed, but its rows do not say so", imm.ID)
}

func (j *judgement) parentRows(half *graph.Meta, r *row) error {
	for i, p := range r.parents() {
		if p == "" || slices.Contains(r.parents()[:i], p) {
			continue
		}
		row, err := j.e.row(p)
		if err != nil {
			return err
		}
		if row == nil {
			j.add(FindingParentMissing, half.ID, p, RepairNone, nil, "record %q lies on %q, which has no row", half.ID, p)
		}
	}
	return nil
}

// leased returns the name that the record's lease has.
func (j *judgement) leased() *graph.Meta {
	if j.in.Mut != nil && !j.in.SnapshotCommitted {
		return j.in.Mut
	}
	return j.in.Imm
}

// recordLease looks at the lease that keeps a record's snapshot and blob.
func (j *judgement) recordLease(ctx context.Context) error {
	half := j.leased()
	want := j.m.recordLease(half.ID, half.SnapshotID, half.Blob)
	l, err := j.e.lease(ctx, half.ID)
	if err != nil {
		return err
	}
	if l == nil {
		j.add(FindingLeaseMissing, half.ID, half.ID, RepairCreateLease, j.create(want), "record %q has no lease", half.ID)
		return nil
	}
	have, err := j.e.resources(ctx, l.ID)
	if err != nil {
		return err
	}
	for _, r := range want.resources {
		if !slices.Contains(have, r) {
			j.add(FindingLeaseIncomplete, half.ID, half.ID, RepairCompleteLease, j.create(want),
				"the lease of record %q does not list %s %q", half.ID, r.Type, r.ID)
			return nil
		}
	}
	if _, flat := l.Labels[labelGCFlat]; !flat {
		want.resources = have
		j.add(FindingLeaseNotFlat, half.ID, half.ID, RepairRecreateLease, j.remake(want, true),
			"the lease of record %q lacks label %s", half.ID, labelGCFlat)
	}
	return nil
}

func (j *judgement) create(l lease) func(context.Context) error { return j.remake(l, false) }

func (j *judgement) remake(l lease, anew bool) func(context.Context) error {
	return func(ctx context.Context) error {
		return j.m.transact(ctx, func(ctx context.Context) error { return j.m.remakeLease(ctx, l, anew) })
	}
}

// otherLeases looks at the leases that a record may have besides.
func (j *judgement) otherLeases(ctx context.Context) error {
	imm := j.in.Imm
	if imm == nil {
		return nil
	}
	ours := func(id string) (bool, error) {
		l, err := j.e.lease(ctx, id)
		return l != nil && l.Labels[labelStore] == j.m.storeID, err
	}
	if j.in.State == graph.Sealed && !j.in.SnapshotCommitted && !j.in.StrayLease {
		here, err := ours(imm.ID)
		if err != nil {
			return err
		}
		if here {
			j.add(FindingLeaseUnneeded, imm.ID, imm.ID, RepairDeleteLease, j.m.undoLease(imm.ID),
				"record %q is not finalized and has a lease already", imm.ID)
		}
	}
	id := imm.ID + viewSuffix
	entry, _ := j.m.mounts.get(j.in.Record)
	here, err := ours(id)
	switch {
	case err != nil:
		return err
	case here && entry.view == nil:
		j.add(FindingViewLeaseStale, imm.ID, id, RepairDeleteLease, j.m.undoLease(id),
			"record %q has a lease for a view that is not mounted", imm.ID)
	case !here && entry.view != nil:
		l := lease{id: id, record: imm.ID, temporary: true, resources: []leases.Resource{j.m.snapshotResource(imm.SnapshotID + viewSuffix)}}
		j.add(FindingLeaseMissing, imm.ID, id, RepairCreateLease, j.create(l), "the view that record %q is mounted by has no lease", imm.ID)
	}
	return nil
}

// snapshot looks at the snapshot that holds the record's tree.
func (j *judgement) snapshot(ctx context.Context) error {
	half, kind := j.leased(), snapshots.KindCommitted
	if half == j.in.Mut {
		kind = snapshots.KindActive
	}
	info, err := j.e.snapshot(ctx, half.SnapshotID)
	if err != nil {
		return err
	}
	if info == nil && half == j.in.Mut && j.in.Imm != nil {
		other, err := j.e.snapshot(ctx, j.in.Imm.SnapshotID)
		if err != nil {
			return err
		}
		if other != nil && other.Kind == snapshots.KindCommitted {
			j.halfFinalized(j.in.Imm)
			return nil
		}
	}
	switch {
	case info == nil && j.in.State == graph.Lazy:
	case info == nil:
		j.add(FindingSnapshotMissing, half.ID, half.SnapshotID, RepairNone, nil, "snapshot %q of record %q is gone", half.SnapshotID, half.ID)
	case info.Kind != kind:
		j.add(FindingSnapshotKind, half.ID, half.SnapshotID, RepairNone, nil,
			"snapshot %q of record %q is %s, not %s", half.SnapshotID, half.ID, info.Kind, kind)
	default:
		j.snapshotParent(half, info)
	}
	return nil
}

// snapshotParent looks at what the snapshot of a layer lies on. Those of layers made from blobs, of merges and of
// diffs may be put together in other ways.
func (j *judgement) snapshotParent(half *graph.Meta, info *snapshots.Info) {
	var want string
	switch {
	case half.SnapshotID != half.ID: // not built here (spec REC-8)
		return
	case j.in.Kind == graph.Layer:
		want = j.in.ParentSnapshots[0]
	case j.in.Kind != graph.BaseLayer:
		return
	}
	if info.Parent != want {
		j.add(FindingSnapshotParent, half.ID, half.SnapshotID, RepairNone, nil,
			"snapshot %q of record %q lies on %q, not on %q", half.SnapshotID, half.ID, info.Parent, want)
	}
}

// blob looks at the layer's blob and at the lease that keeps its other compressions.
func (j *judgement) blob(ctx context.Context) error {
	imm := j.in.Imm
	if imm == nil || imm.Blob == nil || imm.Blob.Digest == "" {
		return nil
	}
	info, err := j.e.blob(ctx, imm.Blob.Digest)
	if err != nil {
		return err
	}
	if info == nil {
		// A layer that is not extracted is lazy (spec REC-5). The blob of one that was found extracted
		// (spec MGR-30) was never needed, while a layer built here had one made.
		tree, err := j.e.snapshot(ctx, imm.SnapshotID)
		if err != nil {
			return err
		}
		if built := imm.SnapshotID == imm.ID; !imm.Blob.Only && (built || tree == nil) {
			j.add(FindingBlobMissing, imm.ID, imm.Blob.Digest, RepairNone, nil, "blob %s of record %q is gone", imm.Blob.Digest, imm.ID)
		}
		return nil
	}
	if !linked(*info) {
		return nil
	}
	id := imm.ID + variantsSuffix
	l, err := j.e.lease(ctx, id)
	if err != nil || l != nil {
		return err
	}
	if kept, err := j.e.variantsKept(ctx, imm.Blob.Digest); err != nil || kept {
		return err
	}
	create := func(ctx context.Context) error {
		return j.m.transact(ctx, func(ctx context.Context) error { return j.m.leaseVariant(ctx, imm.ID, imm.Blob.Digest) })
	}
	j.add(FindingVariantsUnleased, imm.ID, id, RepairCreateLease, create,
		"blob %s of record %q has other compressions, which no lease keeps", imm.Blob.Digest, imm.ID)
	return nil
}
