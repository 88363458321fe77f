package cache

import (
	"context"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/flight"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/invariant"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
)

// Extract makes sure that the tree of the record, and of all it lies on, is there (spec EXT-1 to EXT-13).
func (r *immutableRef) Extract(ctx context.Context, s session.Group) error {
	m := r.m
	if err := m.life.begin(); err != nil {
		return errors.Wrapf(err, "extracting record %q", r.id)
	}
	defer m.life.end()
	giveBack, err := r.borrow()
	if err != nil {
		return errors.Wrapf(err, "extracting record %q", r.id)
	}
	defer giveBack(ctx)
	return errors.WithMessagef(m.materializeAgain(ctx, r.rec, r.source(s)), "extracting record %q", r.id)
}

func (r *immutableRef) source(s session.Group) source {
	return source{handlers: r.handlers, session: s, progress: r.progress}
}

// materialize makes sure that the snapshot of a lazy record is present; for any other it does nothing. All who
// want a record share one execution, which ends when it is done or when all of them have gone. The
// caller keeps the record alive, and is in no slot.
func (m *manager) materialize(ctx context.Context, rec *graph.Record, src source) error {
	if m.g.Status(rec).State != graph.Lazy {
		return nil
	}
	_, err := together(ctx, &m.extractions, rec, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.pinned(ctx, rec, func() error {
			return m.withRemoteLabels(ctx, rec, src, func(ctx context.Context) error { return m.extract(ctx, rec, src) })
		})
	})
	return err
}

// together is g.Do for work that is done with what one of its callers brings along: handlers, a session. Who shared
// an execution that failed tries once more, since what he brought himself may do.
func together[K comparable, V any](ctx context.Context, g *flight.Group[K, V], key K, fn func(ctx context.Context) (V, error)) (V, error) {
	for retried := false; ; retried = true {
		var mine atomic.Bool
		v, err := g.Do(ctx, key, func(ctx context.Context) (V, error) {
			mine.Store(true)
			return fn(ctx)
		})
		if err == nil || retried || mine.Load() || ctx.Err() != nil {
			return v, err
		}
	}
}

// materializeAgain is materialize for those who ask for nothing but the snapshot: one that vanished is made again.
func (m *manager) materializeAgain(ctx context.Context, rec *graph.Record, src source) error {
	if err := m.noticeLoss(ctx, rec); err != nil {
		return err
	}
	return m.materialize(ctx, rec, src)
}

// pinned runs fn, which is or may become work that nobody waits for, while Close waits for it and the record cannot be
// pruned: what is done for a record that is gone would be left for nobody.
func (m *manager) pinned(ctx context.Context, rec *graph.Record, fn func() error) error {
	if err := m.life.again(); err != nil {
		return err
	}
	defer m.life.end()
	if !m.g.Pin(rec) {
		return errNotFound
	}
	defer m.unlink(context.WithoutCancel(ctx), rec)
	return fn()
}

// extract is materialize for the one who does it.
func (m *manager) extract(ctx context.Context, rec *graph.Record, src source) error {
	st := m.g.Status(rec)
	if st.State != graph.Lazy {
		return nil // another execution ended just before
	}
	found, err := m.findSnapshot(ctx, rec, st)
	if found || err != nil {
		return err
	}
	if rec.Kind().Derived() {
		return m.extractDerived(ctx, rec, st, src)
	}
	if m.caps.RemoteSnapshots && !src.below {
		if err := m.prepareRemote(ctx, rec, src); err != nil { // extracting as usual will do (spec EXT-2)
			log.G(ctx).WithError(err).WithField("record", st.Imm).Warn("layer cache: the snapshotter did not provide a layer by itself")
		}
		if found, err := m.findSnapshot(ctx, rec, st); found || err != nil {
			return err
		}
	}
	return m.extractLayer(ctx, rec, st, src)
}

// findSnapshot looks whether the snapshot is there already, and then publishes it. A remote one does not make
// the record any less lazy: its data are still elsewhere (spec REC-5).
func (m *manager) findSnapshot(ctx context.Context, rec *graph.Record, st graph.Status) (bool, error) {
	info, err := m.opt.Snapshotter.Stat(ctx, st.ImmSnapshot)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, errors.Wrapf(err, "looking for the snapshot of record %q", st.Imm)
	}
	if _, remote := info.Labels[snapshot.LabelRemote]; remote {
		return true, invariant.NoError(m.g.Materialize(rec))
	}
	return true, m.publishExtracted(ctx, rec, info.Labels[snapshot.AnnotationSquashed] == "true")
}

func (m *manager) snapshotExists(ctx context.Context, id string) (bool, error) {
	_, err := m.opt.Snapshotter.Stat(ctx, id)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, errors.Wrapf(err, "looking for snapshot %q", id)
}

// noticeLoss makes a record lazy whose snapshot vanished behind the cache's back and can be made again
// (quirk Q33), and with it those that share the snapshot of a merge or a diff: what they remember shows what is gone.
// If it cannot be made again, that is an error.
func (m *manager) noticeLoss(ctx context.Context, rec *graph.Record) error {
	st := m.g.Status(rec)
	if st.State != graph.Ready {
		return nil
	}
	exists, err := m.snapshotExists(ctx, st.ImmSnapshot)
	if err != nil || exists {
		return err
	}
	for _, other := range m.g.Sharers(rec) {
		if other == rec {
			continue
		}
		if err := m.noteLoss(ctx, other); err != nil {
			return err
		}
	}
	return m.noteLoss(ctx, rec)
}

// noteLoss makes a record lazy whose snapshot was found to be gone.
func (m *manager) noteLoss(ctx context.Context, rec *graph.Record) error {
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return err
	}
	defer leave()
	st := m.g.Status(rec)
	if st.State != graph.Ready {
		return nil
	}
	if recipe := rec.Kind().Derived() || st.Blob != nil && isDigest(st.Blob.Digest); !recipe {
		err := errors.Wrapf(ErrNotExtracted, "snapshot %q is gone, and no blob available to extract it from", st.ImmSnapshot)
		return &LayerError{Record: st.Imm, Action: "extracting", Err: err}
	}
	if exists, err := m.snapshotExists(ctx, st.ImmSnapshot); err != nil || exists {
		return err // somebody has just made it again
	}
	log.G(ctx).WithField("record", st.Imm).Warn("layer cache: a snapshot is gone and will be made again")
	if m.forgetMounts(ctx, rec) { // they show what is gone
		m.dropLease(ctx, st.Imm+viewSuffix)
		m.collectInSlot(ctx, rec) // else the next Mount would take the view up
	}
	m.g.SetMounted(rec, false)
	return invariant.NoError(m.g.Lose(rec))
}

// restored makes a snapshot again that something just failed to find, and tells whether it is worth trying again.
func (m *manager) restored(ctx context.Context, rec *graph.Record, src source) bool {
	if err := m.noticeLoss(ctx, rec); err != nil || m.g.Status(rec).State != graph.Lazy {
		return false
	}
	err := m.materialize(ctx, rec, src)
	if err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: a snapshot that is gone could not be made again")
	}
	return err == nil
}

// collectGarbage has the backend remove what no lease protects any more, now rather than some time.
func (m *manager) collectGarbage(ctx context.Context) {
	notCollected(ctx, m.collected(context.WithoutCancel(ctx)))
}

// collectInSlot is collectGarbage for a caller that is in a record's slot.
func (m *manager) collectInSlot(ctx context.Context, rec *graph.Record) {
	notCollected(ctx, m.collect(context.WithoutCancel(ctx), func(w *work, ev Event) { w.doneLater(rec, ev) }))
}

func notCollected(ctx context.Context, err error) {
	if err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: what is of no use any more is not collected yet")
	}
}

// collected is one collection of garbage.
func (m *manager) collected(ctx context.Context) error {
	return m.collect(ctx, (*work).done)
}

// collect is collected, told by done.
func (m *manager) collect(ctx context.Context, done func(*work, Event)) error {
	if m.opt.GarbageCollect == nil {
		return nil
	}
	ctx, working := m.begin(ctx, Event{Kind: EventCollect})
	_, err := m.opt.GarbageCollect(ctx)
	done(&working, Event{Kind: EventCollect, Err: err})
	return err
}

// publishExtracted notes that the snapshot of a record is there.
func (m *manager) publishExtracted(ctx context.Context, rec *graph.Record, squashed bool) error {
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return err
	}
	defer leave()
	return m.publishInSlot(rec, squashed)
}

func (m *manager) publishInSlot(rec *graph.Record, squashed bool) error {
	st := m.g.Status(rec)
	if st.Blob != nil && st.Blob.Only {
		if err := m.setExtracted(rec, st.Imm, squashed); err != nil {
			return err
		}
	}
	return invariant.NoError(m.g.Materialize(rec))
}

// setExtracted stores that a record has a snapshot besides its blob (spec MGR-30, quirk Q24), and whether that is not
// quite what the blob says (design section 6b).
func (m *manager) setExtracted(rec *graph.Record, id string, squashed bool) error {
	err := m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Row(id)
		if err != nil {
			return err
		}
		if err := row.Set(keyBlobOnly, false, ""); err != nil {
			return err
		}
		if squashed {
			if err := row.Set(keySquashed, true, ""); err != nil {
				return err
			}
		}
		return row.Set(keySize, sizeUnknown, "")
	})
	if err != nil {
		return errors.Wrapf(err, "storing that record %q is extracted", id)
	}
	m.g.SetExtracted(rec)
	return nil
}
