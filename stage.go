package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/invariant"
	"github.com/layercache/cache/metadata"
)

// birth describes a record to be made.
type birth struct {
	id    string
	state graph.State
	kind  graph.Kind
	// parents are linked already; the record takes the links over. parentIDs are their names; of a diff
	// either may be missing.
	parents   []*graph.Record
	parentIDs []string
	// below are diffs that are born along with a merge, in place of the nils among its parents, in order. Nobody
	// else has them.
	below []birth
	// writable asks for an active snapshot on parentSnapshot.
	writable       bool
	parentSnapshot string
	snapshotOpts   []snapshots.Opt
	// snapshotID is the record's snapshot, if it is not named after the record.
	snapshotID string
	// blob is the layer's blob, if that is what is known of it.
	blob *graph.Blob
	// resources are leased besides the snapshot; leased, if set, is called once they are.
	resources []leases.Resource
	leased    func(ctx context.Context) error
	opts      refOptions
}

// stage is the only place where a record with a snapshot of its own is born. The order is fixed: lease, then
// snapshot, then row, then visible (design section 5). Of a record of which there is only a recipe yet, lease and
// row are written at the same time, so that it waits for the disk once: a start that finds a row without its lease makes
// the lease anew (spec INIT-10). That takes a lease which is there with all it lists or not at all. A failed step may
// have been done all the same, with only its answer lost, so what takes a step back is noted before it. The links on the
// parents stay the caller's until stage succeeds. Records that are born together share each step.
func (m *manager) stage(ctx context.Context, b birth) (_ *graph.Record, err error) {
	l := litter{all: append(b.below[:len(b.below):len(b.below)], b), boot: m.markOfNew(b)}
	for i := range l.all {
		one := &l.all[i]
		defer m.claimName(one.id)()
		if one.snapshotID == "" {
			one.snapshotID = one.id
		}
		l.ids, l.metas = append(l.ids, one.id), append(l.metas, one.meta(m.now()))
	}
	var back undo
	defer func() {
		if err != nil {
			back.run(ctx)
		}
	}()
	// The lease is what keeps the snapshot: without it the backend collects both.
	back.add(m.undoLease(l.ids...))
	removeRows := func(context.Context) error { return m.removeRows(l.ids...) }
	if b.recipeOnly() && m.opt.Transactions != nil {
		back.add(removeRows)
		var g errgroup.Group // both are waited for: what is taken back is not under way any more
		g.Go(func() error { return m.stageRows(&l) })
		g.Go(func() error { return m.stageSnapshot(ctx, &l) })
		err = g.Wait()
	} else {
		err = m.stageSnapshot(ctx, &l)
		if err == nil && b.leased != nil {
			err = b.leased(ctx)
		}
		if err == nil {
			back.add(removeRows)
			err = m.stageRows(&l)
		}
	}
	if err != nil {
		return nil, err
	}
	recs, ok := m.g.InsertAll(l.specs())
	if !ok {
		return nil, invariant.NoError(errors.Wrapf(errInvalid, "record ID %q is taken", b.id))
	}
	rec := recs[len(recs)-1]
	m.noteMark(rec, b.id, l.boot)
	return rec, nil
}

// recipeOnly tells whether there is nothing yet that only the record's lease keeps.
func (b *birth) recipeOnly() bool { return !b.writable && b.leased == nil }

// litter is what is born together. The last is the one that was asked for, and may be told from the others by
// what it has besides.
type litter struct {
	all   []birth
	ids   []string
	metas []*graph.Meta
	// boot is the mark that the last row gets.
	boot string
}

func (l *litter) last() *birth { return &l.all[len(l.all)-1] }

// specs says what the graph is to know of the records.
func (l *litter) specs() []graph.Spec {
	specs := make([]graph.Spec, len(l.all))
	for i := range l.all {
		b, last := &l.all[i], i == len(l.all)-1
		specs[i] = graph.Spec{Kind: b.kind, Parents: b.parents, State: b.state, Triggers: last}
		if b.state == graph.Active {
			specs[i].Mut, specs[i].Writer = l.metas[i], last
		} else {
			specs[i].Imm, specs[i].Ref = l.metas[i], last
		}
	}
	return specs
}

func (m *manager) stageRows(l *litter) error {
	err := m.store.Write(func(w *metadata.Writer) error {
		for i := range l.all {
			row, err := w.Create(l.ids[i])
			if err != nil {
				return err
			}
			if err := writeNewRow(row, l.metas[i], &l.all[i]); err != nil {
				return err
			}
			if i < len(l.all)-1 {
				continue
			}
			if err := markRow(row, l.boot); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Wrap(err, "storing the record")
}

// stageSnapshot makes the leases and, if one is asked for, the active snapshot of the last.
func (m *manager) stageSnapshot(ctx context.Context, l *litter) error {
	b := l.last()
	prepare := func(ctx context.Context) error {
		if !b.writable {
			return nil
		}
		err := m.opt.Snapshotter.Prepare(m.leasing(ctx, b.id), b.id, b.parentSnapshot, b.snapshotOpts...)
		return errors.Wrapf(err, "preparing snapshot %q on %q", b.id, b.parentSnapshot)
	}
	err := m.transact(ctx, func(ctx context.Context) error {
		for i := range l.all {
			if _, err := m.createLease(ctx, m.leaseOfNew(&l.all[i])); err != nil {
				return err
			}
		}
		if m.snapshotsJoin() {
			return prepare(ctx)
		}
		return nil
	})
	if err != nil || m.snapshotsJoin() {
		return err
	}
	return prepare(ctx)
}

func (m *manager) leaseOfNew(b *birth) lease {
	l := lease{id: b.id, record: b.id, resources: b.resources}
	if !b.writable || !m.snapshotsLease() {
		l.resources = append([]leases.Resource{m.snapshotResource(b.snapshotID)}, b.resources...)
	}
	return l
}

// meta is the typed form of the new record's row.
func (b *birth) meta(now int64) *graph.Meta {
	meta := &graph.Meta{ID: b.id, SnapshotID: b.snapshotID, Size: sizeUnknown, CreatedAt: now, ImageRefs: appendNew(nil, b.opts.imageRefs), Blob: b.blob}
	o := b.opts
	if o.createdAt != nil {
		meta.CreatedAt = *o.createdAt
	}
	if o.description != nil {
		meta.Description = *o.description
	}
	if o.recordType != nil {
		meta.RecordType = string(*o.recordType)
	}
	if o.retain != nil {
		meta.Retain = *o.retain
	}
	return meta
}

// appendNew appends to set, in order, what it does not hold yet (spec META-12). set is not changed.
func appendNew(set, more []string) []string {
	out := set[:len(set):len(set)]
next:
	for _, s := range more {
		for _, have := range out {
			if have == s {
				continue next
			}
		}
		out = append(out, s)
	}
	return out
}

// removeRows removes rows in one transaction; "" stands for none.
func (m *manager) removeRows(ids ...string) error {
	err := m.store.Write(func(w *metadata.Writer) error { return removeEach(w, ids) })
	return errors.Wrap(err, "removing rows")
}

func removeEach(w *metadata.Writer, ids []string) error {
	for _, id := range ids {
		if id == "" {
			continue
		}
		if err := w.Remove(id); err != nil {
			return err
		}
	}
	return nil
}
