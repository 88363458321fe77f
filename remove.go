package cache

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
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
	if begun, err := m.beginCleanUp(rec, o); !begun {
		return err
	}
	defer m.life.end()
	return m.inSlotOrLater(ctx, rec, func(ctx context.Context) error { return m.cleanUp(ctx, rec, o) })
}

// carryOutInSlot is carryOut for a caller that is in the record's slot.
func (m *manager) carryOutInSlot(ctx context.Context, rec *graph.Record, o graph.Outcome) error {
	if begun, err := m.beginCleanUp(rec, o); !begun {
		return err
	}
	defer m.life.end()
	return m.cleanUp(ctx, rec, o)
}

// noteUses has the store fetch the counted uses from the graph by and by. A closed store is no
// error: such a use is lost, as in a crash.
func (m *manager) noteUses(o graph.Outcome) error {
	if !o.UsesDue {
		return nil
	}
	if err := m.store.LaterDue(); err != nil && !errors.Is(err, metadata.ErrClosed) {
		return errors.Wrap(err, "noting uses")
	}
	return nil
}

// writeUses is the store's source of counted uses.
func (m *manager) writeUses(add func(id string, values ...metadata.Int)) {
	for _, u := range m.g.TakeUses() {
		add(u.ID, metadata.Int{Key: keyLastUsedAt, Value: u.LastUsedAt}, metadata.Int{Key: keyUsageCount, Value: int64(u.Count)})
		if u.Written {
			add(u.ID, metadata.Int{Key: keySize, Value: sizeUnknown})
		}
	}
}

// beginCleanUp notes the uses, and admits the clean-up of the record if there is anything to do; m.life.end has to follow then. After Close a
// condemned record stays: the next start removes what nobody retained (spec INIT-12).
func (m *manager) beginCleanUp(rec *graph.Record, o graph.Outcome) (begun bool, err error) {
	if err := m.noteUses(o); err != nil || !o.Remove && !o.Unmount {
		return false, err
	}
	if err = m.life.again(); err != nil && o.Remove {
		_ = invariant.NoError(m.g.Restore(rec))
	}
	return err == nil, err
}

func (m *manager) cleanUp(ctx context.Context, rec *graph.Record, o graph.Outcome) error {
	if o.Remove {
		return m.remove(ctx, ReasonReleased, rec)
	}
	return m.dropMounts(ctx, rec)
}

// inSlotOrLater runs fn in the record's slot under a context that the caller cannot cancel. If the
// caller's ends while another operation has the slot, fn runs afterwards, in a goroutine that Close
// waits for, and the caller gets the cause.
func (m *manager) inSlotOrLater(ctx context.Context, rec *graph.Record, fn func(ctx context.Context) error) error {
	uncancelled := context.WithoutCancel(ctx)
	leave, err := m.enter(ctx, rec)
	if err == nil {
		defer leave()
		return fn(uncancelled)
	}
	m.life.goOn(func() {
		leave, err := m.enter(uncancelled, rec)
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

// detached runs fn under a context that the caller cannot cancel, in a goroutine that Close waits
// for. If the caller's context ends first, the caller gets the cause, and fn goes on until rest is
// closed; else rest is nil. A context that has ended already does not count: who comes with one
// wants things cleaned up.
func (m *manager) detached(ctx context.Context, fn func(ctx context.Context) error) (rest <-chan struct{}, err error) {
	uncancelled := context.WithoutCancel(ctx)
	if ctx.Done() == nil || ctx.Err() != nil {
		return nil, fn(uncancelled)
	}
	var result error
	done := make(chan struct{})
	m.life.goOn(func() {
		defer close(done)
		result = fn(uncancelled)
	})
	select {
	case <-done:
		return nil, result
	case <-ctx.Done():
	}
	select {
	case <-done: // both: the result tells more
		return nil, result
	default:
		return done, errors.Wrap(context.Cause(ctx), "the work goes on in the background")
	}
}

// unlink gives back the place of a child on rec.
func (m *manager) unlink(ctx context.Context, rec *graph.Record) {
	m.settle(ctx, rec, m.g.Unlink(rec, m.now()))
}

// removal is condemned records on their way out.
type removal struct {
	reason string
	recs   []*graph.Record
	doomed []graph.Status
	// left is what there still is of them.
	left  leftovers
	start time.Time
	// cause and sizes are what events tell of records that were pruned: the rule, and what comes free with each.
	cause string
	sizes []int64
}

func (m *manager) newRemoval(reason string, recs []*graph.Record) *removal {
	r := &removal{reason: reason, recs: recs, doomed: make([]graph.Status, len(recs)), start: m.eventStart()}
	for i, rec := range recs {
		r.doomed[i] = m.g.Status(rec)
	}
	r.left = leftoversOf(r.doomed)
	return r
}

// failed names what an error is about.
func (r *removal) failed(err error) error {
	return errors.Wrapf(err, "removing record %q", nameOf(r.doomed[0]))
}

// remove deletes condemned records: rows marked, leases deleted, rows removed, parents let go
// (spec REF-9, PRN-14). If the marks cannot be set, but surely be taken back, nothing has happened, and
// the records are visible again. A later failure leaves the marks, by which finishRemovals or the next start goes on, and
// the parents are let go all the same, and exactly once (quirk Q28).
func (m *manager) remove(ctx context.Context, reason string, recs ...*graph.Record) error {
	r := m.newRemoval(reason, recs)
	restored, err := m.beginRemoval(r, nil)
	if restored {
		return err
	}
	if err == nil {
		err = m.unlease(ctx, r)
	}
	if err == nil {
		err = m.removeRows(r.left.rows...)
	}
	if gerr := m.endRemoval(ctx, r, err); err == nil {
		err = gerr
	}
	return r.failed(err)
}

// beginRemoval marks the rows of records. In the same transaction it removes those of others, if there are, whose leases are gone. If it fails,
// these are left, and the records may be restored.
func (m *manager) beginRemoval(r, others *removal) (restored bool, err error) {
	err = m.store.Write(func(w *metadata.Writer) error {
		if others != nil {
			if err := removeEach(w, others.left.rows); err != nil {
				return err
			}
		}
		return markEach(w, r.doomed, true)
	})
	if err == nil {
		return false, nil
	}
	err = errors.Wrap(err, "marking records as deleted")
	if m.store.Write(func(w *metadata.Writer) error { return markEach(w, r.doomed, false) }) != nil {
		return false, err
	}
	for _, rec := range r.recs {
		_ = invariant.NoError(m.g.Restore(rec))
	}
	return true, err
}

// unlease deletes the leases of records whose rows are marked.
func (m *manager) unlease(ctx context.Context, r *removal) error {
	err := m.transact(ctx, func(ctx context.Context) error { return m.deleteLeases(ctx, r.left.leases...) })
	if err == nil {
		r.left.leases = nil
	}
	return err
}

// endRemoval drops records of which nothing is left, or what failed to be deleted.
func (m *manager) endRemoval(ctx context.Context, r *removal, failed error) (err error) {
	if failed != nil {
		m.unfinished.add(r.left)
	}
	for i, rec := range r.recs {
		m.forgetMounts(ctx, rec)
		follow, gerr := m.g.Drop(rec)
		if invariant.NoError(gerr) != nil {
			err = gerr
			if failed == nil {
				failed = gerr
			}
		}
		for _, f := range follow {
			m.settle(ctx, f.Record, f.Outcome)
		}
		ev := Event{Kind: EventRemove, ID: nameOf(r.doomed[i]), Reason: r.reason, Cause: r.cause, Err: failed}
		if r.sizes != nil {
			ev.Size = r.sizes[i]
		}
		m.observeLater(rec, ev, r.start)
	}
	return err
}

// nameOf is the name by which a record is spoken of.
func nameOf(st graph.Status) string {
	if st.Mut != "" {
		return st.Mut
	}
	return st.Imm
}

// markEach stores that the deletion of rows has begun, so that a crash cannot bring them back; or,
// after it failed to, that it has not.
func markEach(w *metadata.Writer, doomed []graph.Status, deleted bool) error {
	for _, st := range doomed {
		for _, id := range []string{st.Mut, st.Imm} {
			if id == "" {
				continue
			}
			row, err := w.Row(id)
			if errdefs.IsNotFound(err) {
				continue // by a write whose answer was lost
			}
			if err != nil {
				return err
			}
			if deleted {
				err = row.Set(keyDeleted, true, "")
			} else {
				err = row.Clear(keyDeleted)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteMarked deletes the leases and then the rows of marked records.
func (m *manager) deleteMarked(ctx context.Context, l leftovers) error {
	err := m.transact(ctx, func(ctx context.Context) error {
		return m.deleteLeases(ctx, l.leases...)
	})
	if err != nil || len(l.rows) == 0 {
		return err
	}
	return m.removeRows(l.rows...)
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

// leftovers are leases, and rows marked as deleted, that are of no use any more.
type leftovers struct{ leases, rows []string }

func leftoversOf(doomed []graph.Status) (l leftovers) {
	for _, st := range doomed {
		l.leases = append(l.leases, leasesOf(st)...)
		l.rows = append(l.rows, st.Mut, st.Imm)
	}
	return l
}

// removals collects what a failing backend kept from being deleted.
type removals struct {
	mu sync.Mutex
	leftovers
	// retried is what finishRemovals is working on.
	retried leftovers
}

func (r *removals) add(l leftovers) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leases = append(r.leases, l.leases...)
	r.rows = append(r.rows, l.rows...)
}

func (r *removals) take() leftovers {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.leftovers
	r.leftovers, r.retried = leftovers{}, l
	return l
}

// finished notes what a retry has left.
func (r *removals) finished(left leftovers) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leases = append(r.leases, left.leases...)
	r.rows = append(r.rows, left.rows...)
	r.retried = leftovers{}
}

// underWay tells whether a row or lease is being deleted by a retry.
func (r *removals) underWay(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.retried.rows, id) || slices.Contains(r.retried.leases, id)
}

// finishRemovals goes on with deletions that were interrupted, one by one, so that one that cannot be done
// does not hold up the others. What still fails is kept for the next time, and is no error of the
// caller's.
func (m *manager) finishRemovals(ctx context.Context) {
	l := m.unfinished.take()
	if len(l.leases) == 0 && len(l.rows) == 0 {
		return
	}
	var left leftovers
	defer func() { m.unfinished.finished(left) }()
	if m.deleteMarked(ctx, l) == nil {
		return
	}
	for _, id := range l.leases {
		err := m.deleteMarked(ctx, leftovers{leases: []string{id}})
		if err != nil {
			log.G(ctx).WithError(err).Warn("layer cache: a lease without a record is left")
			left.leases = append(left.leases, id)
		}
	}
	for _, id := range l.rows {
		// A row goes after its leases: while one of these is left, the mark on the row is what the
		// next start knows it by.
		if slices.ContainsFunc(left.leases, func(lease string) bool { return lease == id || trimSuffixes(lease) == id }) || m.removeRows(id) != nil {
			left.rows = append(left.rows, id)
		}
	}
}
