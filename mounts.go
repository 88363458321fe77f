package cache

import (
	"context"
	stderrors "errors"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
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

// mountEntry is one of the two: how the active snapshot is mounted, or the view of a committed one.
type mountEntry struct {
	shared *sharable
	// view has a view snapshot and its lease behind it.
	view snapshot.Mountable
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

func (t *mountTable) take(rec *graph.Record) (mountEntry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[rec]
	delete(t.entries, rec)
	return e, ok
}

func (t *mountTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Mount returns the tree of a finalized record as a view, and of one that is not yet as the snapshot
// that is still writable underneath, read-only (spec MNT-2, MNT-3).
func (r *immutableRef) Mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error) {
	mountable, err := r.mount(ctx, readonly, s)
	if err != nil {
		return nil, errors.Wrapf(err, "mounting record %q", r.id)
	}
	return mountable, nil
}

func (r *immutableRef) mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error) {
	m := r.m
	if err := m.life.begin(); err != nil {
		return nil, err
	}
	defer m.life.end()
	giveBack, err := r.borrow()
	if readonly && m.opt.UseAfterRelease && errors.Is(err, errReleased) {
		return r.mountRemnant(ctx)
	}
	if err != nil {
		return nil, err
	}
	defer giveBack(ctx)
	start := m.eventStart()
	mountable, err := m.mountImmutable(ctx, r.rec, readonly, r.source(s))
	m.observe(Event{Kind: EventMount, ID: r.id, Err: err}, start)
	if err != nil {
		return nil, err
	}
	if readonly {
		mountable = snapshot.ReadOnly(mountable)
	}
	return mountable, nil
}

// mountImmutable extracts what has to be mounted first. Should its snapshot turn out to have vanished, it is
// extracted again, once.
func (m *manager) mountImmutable(ctx context.Context, rec *graph.Record, readonly bool, src source) (snapshot.Mountable, error) {
	for retried := false; ; {
		if err := m.materialize(ctx, rec, src); err != nil {
			return nil, err
		}
		mountable, err := m.mountReady(ctx, rec, readonly, src)
		switch {
		case errors.Is(err, errLazyAgain): // somebody noticed a loss in between
		case errdefs.IsNotFound(err) && !retried && m.restored(ctx, rec, src):
			retried = true
		default:
			return mountable, err
		}
	}
}

// errLazyAgain says that a record is to be extracted first.
var errLazyAgain = errors.New("the record is lazy")

func (m *manager) mountReady(ctx context.Context, rec *graph.Record, readonly bool, src source) (snapshot.Mountable, error) {
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
		st = m.g.Status(rec)
	}
	switch st.State {
	case graph.Lazy:
		return nil, errLazyAgain
	case graph.Sealed:
		shared, err := m.sharedInSlot(ctx, rec, st.MutSnapshot, src)
		if err != nil {
			return nil, err
		}
		return sharedReader{shared}, nil
	}
	if e, ok := m.mounts.get(rec); ok {
		return e.view, nil
	}
	var view snapshot.Mountable
	err = m.withRemoteLabels(ctx, rec, src, func(ctx context.Context) (err error) { // spec MNT-8
		view, err = m.view(ctx, st)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.mounts.set(rec, mountEntry{view: view})
	m.g.SetMounted(rec, true)
	return view, nil
}

// sharedInSlot returns how the active snapshot of a record is mounted. The caller is in the record's slot.
func (m *manager) sharedInSlot(ctx context.Context, rec *graph.Record, key string, src source) (*sharable, error) {
	if e, ok := m.mounts.get(rec); ok {
		return e.shared, nil
	}
	var below *graph.Record
	if rec.Kind() == graph.Layer {
		below = rec.Parents()[0]
	}
	var mountable snapshot.Mountable
	err := m.withRemoteLabels(ctx, below, src, func(ctx context.Context) (err error) { // spec MNT-8
		mountable, err = m.opt.Snapshotter.Mounts(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	shared := m.pool.share(key, checkedMountable{mountable})
	m.mounts.set(rec, mountEntry{shared: shared})
	m.g.SetMounted(rec, true)
	return shared, nil
}

// forgetMounts makes an end of what Mount remembers of a record (spec MNT-7), and tells whether there was
// a view. What users have mounted stays until they release it. The caller is in the record's slot.
func (m *manager) forgetMounts(ctx context.Context, rec *graph.Record) (view bool) {
	e, ok := m.mounts.take(rec)
	if !ok {
		return false
	}
	if e.shared != nil {
		if err := e.shared.retire(); err != nil {
			// Close tries it again, and then the next start.
			log.G(ctx).WithError(err).Warn("layer cache: a shared mount is left")
		}
	}
	return e.view != nil
}

// view makes the view snapshot of a finalized record under a lease of its own. One that is there
// already is used as it is.
func (m *manager) view(ctx context.Context, st graph.Status) (mountable snapshot.Mountable, err error) {
	key := st.ImmSnapshot + viewSuffix
	l := lease{id: st.Imm + viewSuffix, record: st.Imm, temporary: true, resources: []leases.Resource{m.snapshotResource(key)}}
	first := l
	if m.snapshotsLease() {
		first.resources = nil
	}
	snap := func(ctx context.Context) error {
		var err error
		mountable, err = m.viewUnder(m.leasing(ctx, l.id), l, key, st.ImmSnapshot)
		return errors.Wrapf(err, "viewing snapshot %q", st.ImmSnapshot)
	}
	err = m.transact(ctx, func(ctx context.Context) error {
		if _, err := m.createLease(ctx, first); err != nil || !m.snapshotsJoin() {
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
	return checkedMountable{mountable}, nil
}

// viewUnder makes a view, or takes up one that is there, which the lease may not list yet: until it does the view may be collected, and
// then it is made anew.
func (m *manager) viewUnder(ctx context.Context, l lease, key, of string) (snapshot.Mountable, error) {
	for retried := false; ; retried = true {
		mountable, err := m.opt.Snapshotter.View(ctx, key, of, m.caps.WritableOpts()...)
		if !errdefs.IsAlreadyExists(err) {
			return mountable, err
		}
		if m.snapshotsLease() {
			if _, err := m.createLease(ctx, l); err != nil {
				return nil, err
			}
		}
		mountable, err = m.opt.Snapshotter.Mounts(ctx, key)
		if retried || !m.snapshotsLease() || !errdefs.IsNotFound(err) {
			return mountable, err
		}
	}
}

// checkedMountable says that a tree has too many layers to be mounted, where the kernel would only say that the options are invalid
// (snapshot.ErrTooManyLayers, fault 38).
type checkedMountable struct{ snapshot.Mountable }

func (c checkedMountable) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := c.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	if err := snapshot.CheckMounts(mounts); err != nil {
		if release != nil {
			err = stderrors.Join(err, release())
		}
		return nil, nil, err
	}
	return mounts, release, nil
}

// dropMounts forgets the mounts of a record that nobody holds any more, with the view lease if
// there is one (spec REF-6). The caller is in the record's slot.
func (m *manager) dropMounts(ctx context.Context, rec *graph.Record) error {
	st := m.g.Status(rec)
	if st.Refs > 0 || st.Writer {
		return nil // somebody came back meanwhile; their end will come by
	}
	view := m.forgetMounts(ctx, rec)
	m.g.SetMounted(rec, false)
	if !view {
		return nil
	}
	return m.transact(ctx, func(ctx context.Context) error { return m.deleteLeases(ctx, st.Imm+viewSuffix) })
}

// Mount returns the snapshot that is being written, to write to or to look at (spec MNT-5). All its users
// share one mount; see sharable.
func (r *mutableRef) Mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error) {
	mountable, err := r.mount(ctx, readonly, s)
	if err != nil {
		return nil, errors.Wrapf(err, "mounting record %q", r.id)
	}
	if readonly {
		mountable = snapshot.ReadOnly(mountable)
	}
	return mountable, nil
}

func (r *mutableRef) mount(ctx context.Context, readonly bool, s session.Group) (_ snapshot.Mountable, err error) {
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
	if r.done.Load() || r.leaving.Load() {
		return nil, errors.Wrap(errReleased, "the ref was released or committed")
	}
	if !readonly {
		if err := m.beginWriting(r.rec, r.id); err != nil {
			return nil, err
		}
	}
	shared, err := m.sharedInSlot(ctx, r.rec, m.g.Status(r.rec).MutSnapshot, source{handlers: r.handlers, session: s})
	if err != nil {
		return nil, err
	}
	return shared, nil
}
