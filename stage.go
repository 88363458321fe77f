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
	// parents are linked already; the record takes the links over.
	parents  []*graph.Record
	parentID string
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
// the lease anew (spec INIT-10). That takes a lease which is there with all it lists or not at all. A failed step may have been done all the same, with only its answer lost, so what takes
// a step back is noted before it. The links on the parents stay the caller's until stage succeeds.
func (m *manager) stage(ctx context.Context, b birth) (_ *graph.Record, err error) {
	defer m.claimName(b.id)()
	var back undo
	defer func() {
		if err != nil {
			back.run(ctx)
		}
	}()
	if b.snapshotID == "" {
		b.snapshotID = b.id
	}
	meta, boot := b.meta(m.now()), m.markOfNew(b)
	// The lease is what keeps the snapshot: without it the backend collects both.
	back.add(m.undoLease(b.id))
	if b.recipeOnly() && m.opt.Transactions != nil {
		back.add(func(context.Context) error { return m.removeRows(b.id) })
		var g errgroup.Group // both are waited for: what is taken back is not under way any more
		g.Go(func() error { return m.stageRow(meta, boot, b) })
		g.Go(func() error { return m.stageSnapshot(ctx, b) })
		err = g.Wait()
	} else {
		err = m.stageSnapshot(ctx, b)
		if err == nil && b.leased != nil {
			err = b.leased(ctx)
		}
		if err == nil {
			back.add(func(context.Context) error { return m.removeRows(b.id) })
			err = m.stageRow(meta, boot, b)
		}
	}
	if err != nil {
		return nil, err
	}
	spec := graph.Spec{Kind: b.kind, Parents: b.parents, State: b.state, Triggers: true}
	if b.state == graph.Active {
		spec.Mut, spec.Writer = meta, true
	} else {
		spec.Imm, spec.Ref = meta, true
	}
	rec, ok := m.g.Insert(spec)
	if !ok {
		return nil, invariant.NoError(errors.Wrapf(errInvalid, "record ID %q is taken", b.id))
	}
	m.noteMark(rec, b.id, boot)
	return rec, nil
}

// recipeOnly tells whether there is nothing yet that only the record's lease keeps.
func (b *birth) recipeOnly() bool { return !b.writable && b.leased == nil }

func (m *manager) stageRow(meta *graph.Meta, boot string, b birth) error {
	err := m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Create(b.id)
		if err != nil {
			return err
		}
		if err := writeNewRow(row, meta, b); err != nil {
			return err
		}
		return markRow(row, boot)
	})
	return errors.Wrap(err, "storing the record")
}

// stageSnapshot makes the lease and, if one is asked for, the active snapshot.
func (m *manager) stageSnapshot(ctx context.Context, b birth) error {
	l := lease{id: b.id, record: b.id, resources: append([]leases.Resource{m.snapshotResource(b.snapshotID)}, b.resources...)}
	prepare := func(ctx context.Context) error {
		if !b.writable {
			return nil
		}
		err := m.opt.Snapshotter.Prepare(ctx, b.id, b.parentSnapshot, b.snapshotOpts...)
		return errors.Wrapf(err, "preparing snapshot %q on %q", b.id, b.parentSnapshot)
	}
	err := m.transact(ctx, func(ctx context.Context) error {
		if _, err := m.createLease(ctx, l); err != nil {
			return err
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
	err := m.store.Write(func(w *metadata.Writer) error {
		for _, id := range ids {
			if id == "" {
				continue
			}
			if err := w.Remove(id); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Wrap(err, "removing rows")
}
