package cache

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// syncDelay is how long written trees wait for being flushed together. That is about what kernels let dirty
// pages grow old (30 s on Linux), so that the flush finds most of the work done.
const syncDelay = 30 * time.Second

// bootIDOf returns the ID of this run of the machine, "" if there is no knowing.
func bootIDOf(opt ManagerOpt) string {
	if opt.BootID != "" {
		return storable(opt.BootID)
	}
	id, err := systemBootID()
	if err != nil {
		log.L.WithError(err).Debug("layer cache: a crash of the machine cannot be told from one of the process")
		return ""
	}
	return id
}

// marking tells whether trees are marked as not on disk: if something could take the marks off, and a
// later start could tell what they mean.
func (m *manager) marking() bool { return m.bootID != "" && m.opt.SyncFS != nil }

// markOfNew is the mark that a new record's row gets, "" for none: one that can be written to, and one whose snapshot,
// another's too, is being made.
func (m *manager) markOfNew(b birth) string {
	if m.marking() && (b.writable || b.snapshotID != "" && m.marks.unflushed(b.snapshotID)) {
		return m.bootID
	}
	return ""
}

// treeOf is the snapshot that a record may share with others that are marked with it; see marks.
func (m *manager) treeOf(rec *graph.Record) string {
	if rec.Kind().Derived() {
		return m.g.Status(rec).ImmSnapshot
	}
	return ""
}

// noteMark notes the mark of a row that has just been stored, and sees to it that it is taken off one day.
func (m *manager) noteMark(rec *graph.Record, id, boot string) {
	if boot == "" {
		return
	}
	m.marks.add(rec, id, m.treeOf(rec), boot, true)
	m.startSync()
}

// beginWriting makes sure that a record's row has the mark before its tree is handed out to be written to. That
// costs a transaction only if the tree has been flushed since it was written to last. The caller is in the
// record's slot and has the place of its writer.
func (m *manager) beginWriting(rec *graph.Record, id string) error {
	if !m.marking() || m.marks.touch(id) {
		return nil
	}
	m.marks.add(rec, id, "", m.bootID, false)
	m.startSync()
	err := m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Row(id)
		if err != nil {
			return err
		}
		return markRow(row, m.bootID)
	})
	if err != nil {
		return errors.Wrap(err, "storing that the record is written to")
	}
	m.marks.stored(id)
	return nil
}

// beginMaking makes sure that the rows of a merge or a diff, and of all that share its snapshot, have the mark before the
// first byte of it is written. Unlike a layer that is being built it can be made again, so it is not flushed before
// anybody sees it. end is to be called when all is written.
func (m *manager) beginMaking(rec *graph.Record) (end func(), err error) {
	if !m.marking() {
		return func() {}, nil
	}
	tree := m.treeOf(rec)
	m.marks.beginTree(tree)
	end = func() { m.marks.endTree(tree) }
	if err := m.markSharers(rec, tree); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// markSharers marks a merge or a diff with all others of the same snapshot.
func (m *manager) markSharers(rec *graph.Record, tree string) error {
	unstored := m.marks.addAll(m.g.Sharers(rec), tree, m.bootID)
	m.startSync()
	if len(unstored) == 0 {
		return nil
	}
	err := m.store.Write(func(w *metadata.Writer) error {
		for _, id := range unstored {
			row, err := w.Row(id)
			if errdefs.IsNotFound(err) {
				continue // it went meanwhile
			}
			if err == nil {
				err = markRow(row, m.bootID)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Wrap(err, "storing that a tree is being made")
	}
	m.marks.stored(unstored...)
	return nil
}

// markNewSharer marks a record that has just become visible if its snapshot, another's too, began to be made meanwhile. Whoever
// makes it either saw the record or is seen here.
func (m *manager) markNewSharer(rec *graph.Record, id string) error {
	tree := m.treeOf(rec)
	if tree == "" || tree == id || !m.marking() || m.marks.of(id) != "" || !m.marks.unflushed(tree) {
		return nil
	}
	return m.markSharers(rec, tree)
}

// syncFS flushes the snapshotter's filesystem. It is called with no lock held but, by Finalize, the record's slot.
func (m *manager) syncFS(ctx context.Context) error {
	err := m.opt.SyncFS(ctx)
	if errdefs.IsDataLoss(err) {
		m.marks.lose()
	}
	return errors.Wrap(err, "flushing the snapshotter's filesystem")
}

// syncFinalized flushes what is about to be stored as final, if the options ask for it; done tells that the tree is on
// disk. The caller is in the record's slot, and nobody writes to the tree any more.
func (m *manager) syncFinalized(ctx context.Context, st graph.Status) (done bool, err error) {
	switch {
	case !m.opt.Sync:
		return false, nil
	case m.marks.isLost(st.Imm):
		return false, errors.Wrap(errdefs.ErrDataLoss, "an earlier flush failed")
	case m.marking() && m.marks.of(st.Imm) == "":
		return false, nil // it has been flushed by now
	}
	made, cut := m.marks.madeTrees(m.bootID)
	if err := m.syncFS(ctx); err != nil {
		return false, err
	}
	// The merge that the tree lies on must not be lost either.
	if err := m.clearMarks(m.marks.beginClear(made, cut)); err != nil {
		return false, err
	}
	return true, nil
}

// startSync starts the timer of the next flush, unless there is one.
func (m *manager) startSync() {
	k := &m.marks
	k.mu.Lock()
	defer k.mu.Unlock()
	m.startSyncLocked()
}

func (m *manager) startSyncLocked() {
	k := &m.marks
	if k.stop != nil || k.busy || k.down || len(k.rows) == 0 || !m.marking() {
		return
	}
	k.stop = m.opt.AfterFunc(syncDelay, m.syncDue)
}

// syncDue is the timer's function. Close waits for it, or it finds the cache closed.
func (m *manager) syncDue() {
	if m.life.begin() != nil {
		return // Close flushes
	}
	defer m.life.end()
	k := &m.marks
	k.mu.Lock()
	k.stop, k.busy = nil, true
	k.mu.Unlock()
	ctx := context.Background()
	if err := m.syncMarked(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: what was written may not be on disk; it is tried again")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = false
	m.startSyncLocked()
}

// syncLast flushes for Close, when nothing is running any more, and stops the timer.
func (m *manager) syncLast() error {
	k := &m.marks
	k.mu.Lock()
	k.down = true
	if k.stop != nil {
		k.stop()
		k.stop = nil
	}
	k.mu.Unlock()
	if !m.marking() {
		return nil
	}
	return m.syncMarked(context.Background())
}

// syncMarked flushes and takes the marks off the records that nobody is writing to, in one transaction. Records
// that are open for writing keep theirs. If all are, there is no flush.
func (m *manager) syncMarked(ctx context.Context) error {
	recs, cut := m.marks.candidates(m.bootID)
	for id, rec := range recs {
		// A writer that comes later has to mount first, and then its number is beyond cut. One that
		// has gone by now has written everything before the flush.
		st := m.g.Status(rec)
		switch {
		case st.State == graph.Gone || id != st.Mut && id != st.Imm:
			m.marks.drop(id) // the row is gone, and so is the mark
			delete(recs, id)
		case st.Writer || m.pool.busy(st.MutSnapshot):
			delete(recs, id)
		}
	}
	if len(recs) == 0 {
		return nil
	}
	if err := m.syncFS(ctx); err != nil {
		return err
	}
	return m.clearMarks(m.marks.beginClear(recs, cut))
}

func (m *manager) clearMarks(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	err := m.store.Write(func(w *metadata.Writer) error {
		for _, id := range ids {
			if !m.marks.clearing(id) {
				continue
			}
			row, err := w.Row(id)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err == nil {
				err = row.Clear(keyUnsynced)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	m.marks.endClear(ids, err == nil)
	return errors.Wrap(err, "storing what is on disk")
}
