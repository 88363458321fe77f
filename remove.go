package cache

import (
	"context"

	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/invariant"
	"github.com/layercache/cache/metadata"
)

// settle does what the end of a ref or link asks for, where nobody waits for the result.
func (m *manager) settle(ctx context.Context, rec *graph.Record, o graph.Outcome) {
	if err := m.carryOut(ctx, rec, o); err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: dropping an internal ref")
	}
}

// carryOut does on disk what the graph decided when a ref or link ended.
func (m *manager) carryOut(ctx context.Context, rec *graph.Record, o graph.Outcome) error {
	if err := m.noteUses(o); err != nil || !o.Remove && !o.Unmount {
		return err
	}
	if err := m.beginCleanUp(rec, o); err != nil {
		return err
	}
	defer m.life.end()
	return m.inSlotOrLater(ctx, rec, func(ctx context.Context) error { return m.cleanUp(ctx, rec, o) })
}

// carryOutInSlot is carryOut for a caller that is in the record's slot.
func (m *manager) carryOutInSlot(ctx context.Context, rec *graph.Record, o graph.Outcome) error {
	if err := m.noteUses(o); err != nil || !o.Remove && !o.Unmount {
		return err
	}
	if err := m.beginCleanUp(rec, o); err != nil {
		return err
	}
	defer m.life.end()
	return m.cleanUp(ctx, rec, o)
}

// noteUses hands counted uses to the store, which writes them behind. A closed store is no error:
// such a use is lost, as in a crash.
func (m *manager) noteUses(o graph.Outcome) error {
	for _, u := range o.Uses[:o.NumUses] {
		if err := m.store.Later(u.ID, useValues(u)); err != nil && !errors.Is(err, metadata.ErrClosed) {
			return errors.Wrapf(err, "noting a use of record %q", u.ID)
		}
	}
	return nil
}

// beginCleanUp admits the clean-up of a record. After Close a condemned record stays: the next
// start removes what nobody retained (spec INIT-12).
func (m *manager) beginCleanUp(rec *graph.Record, o graph.Outcome) error {
	err := m.life.begin()
	if err != nil && o.Remove {
		_ = invariant.NoError(m.g.Restore(rec))
	}
	return err
}

func (m *manager) cleanUp(ctx context.Context, rec *graph.Record, o graph.Outcome) error {
	if o.Remove {
		return m.remove(ctx, rec, "released")
	}
	return m.dropMounts(ctx, rec)
}

// inSlotOrLater runs fn in the record's slot under a context that the caller cannot cancel. If the
// caller's ends while another operation has the slot, fn runs afterwards, in a goroutine that Close
// waits for, and the caller gets the cause.
func (m *manager) inSlotOrLater(ctx context.Context, rec *graph.Record, fn func(ctx context.Context) error) error {
	uncancelled := context.WithoutCancel(ctx)
	leave, err := m.slots.Enter(ctx, rec)
	if err == nil {
		defer leave()
		return fn(uncancelled)
	}
	m.life.goOn(func() {
		leave, err := m.slots.Enter(uncancelled, rec)
		if err != nil {
			return // a context without end does not end
		}
		defer leave()
		if err := fn(uncancelled); err != nil {
			log.G(uncancelled).WithError(err).Warn("layer cache: finishing an interrupted release")
		}
	})
	return errors.Wrap(err, "the record is busy; its release goes on in the background")
}

// unlink gives back the place of a child on rec.
func (m *manager) unlink(ctx context.Context, rec *graph.Record) {
	m.settle(ctx, rec, m.g.Unlink(rec))
}

// remove deletes a condemned record: rows marked, leases deleted, rows removed, parents let go
// (spec REF-9). A step that fails after the mark is finished at the next start, so the parents are let
// go all the same, and exactly once (quirk Q28). If not even the mark can be set, nothing has
// happened, and the record is back. The caller is in the record's slot.
func (m *manager) remove(ctx context.Context, rec *graph.Record, reason string) error {
	start := m.eventStart()
	st := m.g.Status(rec)
	if err := m.markDeleted(st.Mut, st.Imm); err != nil {
		_ = invariant.NoError(m.g.Restore(rec))
		return err
	}
	m.mounts.forget(rec)
	err := m.transact(ctx, func(ctx context.Context) error {
		return m.deleteLeases(ctx, leasesOf(st)...)
	})
	if err == nil {
		err = m.removeRows(st.Mut, st.Imm)
	}
	follow, gerr := m.g.Drop(rec)
	if invariant.NoError(gerr) != nil && err == nil {
		err = gerr
	}
	for _, f := range follow {
		m.settle(ctx, f.Record, f.Outcome)
	}
	id := st.Mut
	if id == "" {
		id = st.Imm
	}
	m.observe(Event{Kind: EventRemove, ID: id, Reason: reason, Err: err}, start)
	return errors.Wrapf(err, "removing record %q", id)
}

// leasesOf lists the leases a record may have.
func leasesOf(st graph.Status) []string {
	var ids []string
	if st.Mut != "" {
		ids = append(ids, st.Mut)
	}
	if st.Imm != "" && (st.Mut == "" || st.StrayLease || st.SnapshotCommitted) {
		ids = append(ids, st.Imm, st.Imm+viewSuffix)
	}
	if st.Blob != nil {
		ids = append(ids, st.Imm+variantsSuffix)
	}
	return ids
}

// markDeleted stores that the deletion of rows has begun, so that a crash cannot bring them back.
func (m *manager) markDeleted(ids ...string) error {
	err := m.store.Write(func(w *metadata.Writer) error {
		for _, id := range ids {
			if id == "" {
				continue
			}
			row, err := w.Row(id)
			if err != nil {
				return err
			}
			if err := row.Set(keyDeleted, true, ""); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Wrap(err, "marking a record as deleted")
}
