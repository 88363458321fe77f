package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/invariant"
	"github.com/layercache/cache/metadata"
)

// This file holds the I/O half of a record's transitions. Each runs in the record's slot, so
// that one at a time works on a record; a holder may enter a parent's slot, never a child's.

// seal gives an active record, whose writer's place the caller holds, an immutable name. Nothing is done to the
// snapshot (spec REC-3). The caller is in the record's slot.
func (m *manager) seal(rec *graph.Record, mutID string, triggers bool) (*graph.Meta, error) {
	mut, ok := m.g.Meta(mutID)
	if !ok {
		return nil, errNotFound
	}
	imm := &graph.Meta{Size: sizeUnknown, CreatedAt: m.now(), Description: mut.Description}
	imm.ID = newID()
	imm.SnapshotID = imm.ID
	defer m.claimName(imm.ID)()
	boot := m.marks.of(mutID)
	err := m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Create(imm.ID)
		if err != nil {
			return err
		}
		if err := writeSealedRow(row, imm, mutID, m.g.ParentIDs(rec), rec.Kind()); err != nil {
			return err
		}
		return markRow(row, boot)
	})
	if err == nil {
		err = invariant.NoError(m.g.Seal(rec, imm, triggers))
	}
	if err != nil {
		undo{func(context.Context) error { return m.removeRows(imm.ID) }}.run(context.Background())
		return nil, errors.Wrapf(err, "storing the committed half of record %q", mutID)
	}
	m.noteMark(rec, imm.ID, boot)
	return imm, nil
}

// sealReserved seals an idle record for Get. The reservation that the graph made becomes the new
// ref or, on an error, is given back (spec MGR-12).
func (m *manager) sealReserved(ctx context.Context, rec *graph.Record, dhs DescHandlers, triggers bool) (immID string, err error) {
	defer func() {
		if err != nil {
			m.g.AbortWriter(rec)
		}
	}()
	if err := m.life.begin(); err != nil {
		return "", err
	}
	defer m.life.end()
	if err := m.checkLazy(ctx, rec, dhs); err != nil {
		return "", err
	}
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return "", err
	}
	defer leave()
	imm, err := m.seal(rec, m.g.Status(rec).Mut, triggers)
	if err != nil {
		return "", err
	}
	return imm.ID, nil
}

// reopenReserved takes a sealed record back for GetMutable: the immutable half's row goes, with a
// lease that an interrupted finalize may have left (spec MGR-14, quirk Q20). The snapshot stays.
func (m *manager) reopenReserved(ctx context.Context, rec *graph.Record, dhs DescHandlers) (err error) {
	start := m.eventStart()
	defer func() {
		if err != nil {
			m.g.AbortReopen(rec)
		}
	}()
	if err := m.checkLazy(ctx, rec, dhs); err != nil {
		return err
	}
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return err
	}
	defer leave()
	st := m.g.Status(rec)
	if st.StrayLease {
		if err := m.transact(ctx, func(ctx context.Context) error { return m.deleteLeases(ctx, st.Imm) }); err != nil {
			return err
		}
	}
	if err := m.removeRows(st.Imm); err != nil && m.rowExists(st.Imm) {
		return err
	}
	if err := m.g.Reopen(rec); err != nil {
		return invariant.NoError(err)
	}
	m.observeLater(rec, Event{Kind: EventReopen, ID: st.Mut}, start)
	return nil
}

// rowExists tells whether a row is there; if that cannot be found out, it counts as there.
func (m *manager) rowExists(id string) bool {
	err := m.store.ReadRow(id, func(metadata.RowView) error { return nil })
	return !errdefs.IsNotFound(err)
}

// finalize commits the snapshot of a sealed record; on any other it does nothing (spec REF-10).
// The caller keeps the record alive meanwhile.
func (m *manager) finalize(ctx context.Context, rec *graph.Record) error {
	if m.g.Status(rec).State != graph.Sealed {
		return nil
	}
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return err
	}
	defer leave()
	return m.finalizeInSlot(ctx, rec)
}

// finalizeInSlot is finalize for a caller that is in the record's slot (spec REF-11 to REF-14).
func (m *manager) finalizeInSlot(ctx context.Context, rec *graph.Record) error {
	st := m.g.Status(rec)
	if st.State != graph.Sealed {
		return nil
	}
	start := m.eventStart()
	// The mounts of the active snapshot are void from now on (spec MNT-7): before the commit, so that nobody
	// begins to write to what is committed.
	m.forgetMounts(ctx, rec)
	m.g.SetMounted(rec, false)
	mutLease := true // is still to be deleted
	if !st.SnapshotCommitted {
		var err error
		if mutLease, err = m.commitSnapshot(ctx, rec, st); err != nil {
			return err
		}
	}
	synced, err := m.syncFinalized(ctx, st)
	if err != nil {
		return errors.Wrapf(err, "finalizing record %q", st.Imm)
	}
	defer m.claimName(st.Mut)()
	err = m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Row(st.Imm)
		if err != nil {
			return err
		}
		if err := row.Clear(keyEqualMutable); err != nil {
			return err
		}
		if synced {
			if err := row.Clear(keyUnsynced); err != nil {
				return err
			}
		}
		return w.Remove(st.Mut)
	})
	if err != nil && m.rowExists(st.Mut) { // else only the answer was lost
		return errors.Wrapf(err, "storing that record %q is finalized", st.Imm)
	}
	if err := m.g.Finalize(rec); err != nil {
		return invariant.NoError(err)
	}
	if synced {
		m.marks.drop(st.Mut, st.Imm)
	}
	if mutLease {
		m.dropLease(ctx, st.Mut)
	}
	m.observeLater(rec, Event{Kind: EventFinalize, ID: st.Imm}, start)
	return nil
}

// dropLease deletes a lease whose record is no more. If that fails, the next prune or start does it.
func (m *manager) dropLease(ctx context.Context, id string) {
	l := leftovers{leases: []string{id}}
	if err := m.deleteMarked(context.WithoutCancel(ctx), l); err != nil {
		m.unfinished.add(l)
		log.G(ctx).WithError(err).Warn("layer cache: a lease is left for the next prune")
	}
}

// commitSnapshot leases and commits the snapshot of a sealed record, and drops the mutable half's
// lease where all of that can be one transaction; mutLease tells that it is still there.
func (m *manager) commitSnapshot(ctx context.Context, rec *graph.Record, st graph.Status) (mutLease bool, err error) {
	l := lease{id: st.Imm, record: st.Imm, resources: []leases.Resource{m.snapshotResource(st.ImmSnapshot)}}
	first := l
	if m.snapshotsLease() {
		first.resources = nil
	}
	commit := func(ctx context.Context) error {
		return m.opt.Snapshotter.Commit(m.leasing(ctx, l.id), st.ImmSnapshot, st.MutSnapshot)
	}
	created := false
	mutLease = !m.snapshotsJoin()
	err = m.transact(ctx, func(ctx context.Context) (err error) {
		if created, err = m.createLease(ctx, first); err != nil {
			return err
		}
		if !m.snapshotsJoin() {
			return nil
		}
		if err := m.deleteLeases(ctx, st.Mut); err != nil {
			return err
		}
		return commit(ctx)
	})
	if err == nil && !m.snapshotsJoin() {
		err = commit(ctx)
	}
	var is, sure bool
	if err != nil {
		is, sure = m.committed(ctx, st.ImmSnapshot)
		sure = sure && !unanswered(err)
	}
	if is {
		mutLease = true
		err = m.transact(context.WithoutCancel(ctx), func(ctx context.Context) error {
			_, err := m.createLease(ctx, l)
			return err
		})
	}
	if err != nil {
		m.dropUncommitted(ctx, rec, l.id, created && sure)
		return false, errors.Wrapf(err, "finalizing record %q", st.Imm)
	}
	m.g.SetSnapshotCommitted(rec)
	return mutLease, nil
}

// dropUncommitted deletes the lease that a failed finalize has certainly made for nothing, and only that
// (spec REF-12). Else the record remembers that it may exist: a lease on a snapshot that is not there
// costs nothing, and without it a snapshot that came late would be collected.
func (m *manager) dropUncommitted(ctx context.Context, rec *graph.Record, id string, useless bool) {
	m.g.SetStrayLease(rec)
	if useless && !m.snapshotsJoin() { // else the transaction took it back
		undo{m.undoLease(id)}.run(ctx)
	}
}

// unanswered tells whether an error leaves open what becomes of a call. A backend that was too slow to answer, or with which the
// connection broke, may do what it was asked all the same, even after it was asked whether it did.
func unanswered(err error) bool {
	return errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err) || errdefs.IsCanceled(err)
}

// committed tells whether a snapshot is committed although the call that should do it failed: somebody
// else did, or its answer was lost. It is sure of a "no" only if the call was not given up, since a
// backend may go on with one.
func (m *manager) committed(ctx context.Context, snapshotID string) (is, sure bool) {
	info, err := m.opt.Snapshotter.Stat(context.WithoutCancel(ctx), snapshotID)
	if err == nil {
		return info.Kind == snapshots.KindCommitted, true
	}
	return false, errdefs.IsNotFound(err) && ctx.Err() == nil
}
