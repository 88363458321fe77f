package cache

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
)

// mountTable remembers the mountable of each record that has been mounted. An entry is made
// and forgotten in the record's slot, and dies with the last ref or with what it mounts.
type mountTable struct {
	mu      sync.Mutex
	entries map[*graph.Record]mountEntry
}

type mountEntry struct {
	mountable snapshot.Mountable
	// view says that a view snapshot and its lease stand behind the mountable.
	view bool
}

func (t *mountTable) get(rec *graph.Record) (mountEntry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[rec]
	return e, ok
}

func (t *mountTable) set(rec *graph.Record, e mountEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil {
		t.entries = map[*graph.Record]mountEntry{}
	}
	t.entries[rec] = e
}

func (t *mountTable) forget(rec *graph.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, rec)
}

func (t *mountTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Mount returns the tree of a finalized record as a view, and of one that is not yet as the snapshot
// that is still writable underneath, read-only (spec MNT-2, MNT-3).
func (r *immutableRef) Mount(ctx context.Context, readonly bool, _ session.Group) (snapshot.Mountable, error) {
	mountable, err := r.mount(ctx, readonly)
	if err != nil {
		return nil, errors.Wrapf(err, "mounting record %q", r.id)
	}
	return mountable, nil
}

func (r *immutableRef) mount(ctx context.Context, readonly bool) (snapshot.Mountable, error) {
	m := r.m
	if err := m.life.begin(); err != nil {
		return nil, err
	}
	defer m.life.end()
	giveBack, err := r.borrow()
	if err != nil {
		return nil, err
	}
	defer giveBack(ctx)
	start := m.eventStart()
	mountable, err := m.mountImmutable(ctx, r.rec, readonly)
	m.observe(Event{Kind: EventMount, ID: r.id, Err: err}, start)
	if err != nil {
		return nil, err
	}
	if readonly {
		mountable = snapshot.ReadOnly(mountable)
	}
	return mountable, nil
}

func (m *manager) mountImmutable(ctx context.Context, rec *graph.Record, readonly bool) (snapshot.Mountable, error) {
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer leave()
	st := m.g.Status(rec)
	if st.State == graph.Sealed && (!readonly || st.SnapshotCommitted) {
		if err := m.finalizeInSlot(ctx, rec); err != nil {
			return nil, err
		}
	}
	if err := m.materializeInSlot(ctx, rec); err != nil {
		return nil, err
	}
	if e, ok := m.mounts.get(rec); ok {
		return e.mountable, nil
	}
	st = m.g.Status(rec)
	var e mountEntry
	if st.State == graph.Sealed {
		e.mountable, err = m.opt.Snapshotter.Mounts(ctx, st.MutSnapshot)
	} else {
		e.view = true
		e.mountable, err = m.view(ctx, st)
	}
	if err != nil {
		return nil, err
	}
	m.mounts.set(rec, e)
	m.g.SetMounted(rec, true)
	return e.mountable, nil
}

// view makes the view snapshot of a finalized record under a lease of its own. One that is there
// already is used as it is.
func (m *manager) view(ctx context.Context, st graph.Status) (mountable snapshot.Mountable, err error) {
	key := st.ImmSnapshot + viewSuffix
	l := lease{id: st.Imm + viewSuffix, record: st.Imm, temporary: true, resources: []leases.Resource{m.snapshotResource(key)}}
	snap := func(ctx context.Context) error {
		var err error
		mountable, err = m.opt.Snapshotter.View(ctx, key, st.ImmSnapshot, m.caps.WritableOpts()...)
		if errdefs.IsAlreadyExists(err) {
			mountable, err = m.opt.Snapshotter.Mounts(ctx, key)
		}
		return errors.Wrapf(err, "viewing snapshot %q", st.ImmSnapshot)
	}
	err = m.transact(ctx, func(ctx context.Context) error {
		if _, err := m.createLease(ctx, l); err != nil || !m.snapshotsJoin() {
			return err
		}
		return snap(ctx)
	})
	if err == nil && !m.snapshotsJoin() {
		err = snap(ctx)
	}
	if err != nil {
		undo{m.undoLease(l.id)}.run(ctx) // nobody has the view, whoever made its lease (spec MNT-4)
		return nil, err
	}
	return mountable, nil
}

// dropMounts forgets the mounts of a record that nobody holds any more, with the view lease if
// there is one (spec REF-6). The caller is in the record's slot.
func (m *manager) dropMounts(ctx context.Context, rec *graph.Record) error {
	st := m.g.Status(rec)
	if st.Refs > 0 || st.Writer {
		return nil // somebody came back meanwhile; their end will come by
	}
	e, ok := m.mounts.get(rec)
	if !ok {
		return nil
	}
	m.mounts.forget(rec)
	m.g.SetMounted(rec, false)
	if !e.view {
		return nil
	}
	return m.transact(ctx, func(ctx context.Context) error { return m.deleteLeases(ctx, st.Imm+viewSuffix) })
}

// Mount returns the snapshot that is being written, to write to or to look at (spec MNT-5).
func (r *mutableRef) Mount(ctx context.Context, readonly bool, _ session.Group) (snapshot.Mountable, error) {
	mountable, err := r.mount(ctx)
	if err != nil {
		return nil, errors.Wrapf(err, "mounting record %q", r.id)
	}
	if readonly {
		mountable = snapshot.ReadOnly(mountable)
	}
	return mountable, nil
}

func (r *mutableRef) mount(ctx context.Context) (_ snapshot.Mountable, err error) {
	m := r.m
	if err := m.life.begin(); err != nil {
		return nil, err
	}
	defer m.life.end()
	start := m.eventStart()
	defer func() { m.observe(Event{Kind: EventMount, ID: r.id, Err: err}, start) }()
	leave, err := m.enter(ctx, r.rec)
	if err != nil {
		return nil, err
	}
	defer leave()
	if r.done.Load() {
		return nil, errors.Wrap(errReleased, "the ref was released or committed")
	}
	if e, ok := m.mounts.get(r.rec); ok {
		return e.mountable, nil
	}
	mountable, err := m.opt.Snapshotter.Mounts(ctx, m.g.Status(r.rec).MutSnapshot)
	if err != nil {
		return nil, err
	}
	m.mounts.set(r.rec, mountEntry{mountable: mountable})
	m.g.SetMounted(r.rec, true)
	return mountable, nil
}
