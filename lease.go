package cache

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
)

// Labels of leases. The first three are containerd's and BuildKit's (spec 2.2).
const (
	// labelGCFlat makes a lease protect what it lists, and the parents of listed snapshots, but
	// nothing that labels refer to.
	labelGCFlat = "containerd.io/gc.flat"
	// labelTemporary marks leases that an embedder deletes when it starts.
	labelTemporary = "buildkit/lease.temporary"
	// labelStore and labelRecord are ours: which store a lease belongs to and which of its
	// records, so that a lease whose record never came to be can be told from a stranger's (spec INIT-11).
	labelStore  = "layercache.io/store"
	labelRecord = "layercache.io/record"
)

// Suffixes of lease IDs and snapshot keys that belong to a record.
const (
	viewSuffix     = "-view"
	variantsSuffix = "-variants"
	repairSuffix   = "-repair"
)

// undo collects what to take back should an operation fail, and takes it back in reverse order.
type undo []func(ctx context.Context) error

func (u *undo) add(fn func(ctx context.Context) error) { *u = append(*u, fn) }

// run takes everything back, whatever became of the caller's context (spec LEASE-4). It stops at a
// step that fails, since what came before it may be needed by what is left: too much kept is
// repaired by the next start, too little is lost. The failure is logged: the caller gets the error
// that began it (spec LEASE-8).
func (u undo) run(ctx context.Context) {
	if err := u.try(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: rolling back")
	}
}

// try is run for a caller who wants to know.
func (u undo) try(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for i := len(u) - 1; i >= 0; i-- {
		if err := u[i](ctx); err != nil {
			return err
		}
	}
	return nil
}

// transact runs fn in one transaction of the backend where there are such, else just runs it.
func (m *manager) transact(ctx context.Context, fn func(ctx context.Context) error) error {
	if tx := m.opt.Transactions; tx != nil {
		return tx.Update(ctx, fn)
	}
	return fn(ctx)
}

// undoLease deletes leases whose use failed.
func (m *manager) undoLease(ids ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		return m.transact(ctx, func(ctx context.Context) error { return m.deleteLeases(ctx, ids...) })
	}
}

// snapshotsJoin tells whether the snapshotter's writes may be part of transact.
func (m *manager) snapshotsJoin() bool {
	return m.opt.Transactions != nil && m.opt.Transactions.Snapshots
}

// snapshotsLease tells whether a lease is left to list the snapshot that is about to be made when that is made: backends add it to the lease
// of the context, in the same transaction. Where calls share none that saves one of them, which may be a round trip.
func (m *manager) snapshotsLease() bool { return m.opt.Transactions == nil }

// leasing returns the context for making a snapshot that the lease called id is to list.
func (m *manager) leasing(ctx context.Context, id string) context.Context {
	if m.snapshotsLease() {
		return leases.WithLease(ctx, id)
	}
	return ctx
}

// lease describes a lease to make for a record.
type lease struct {
	id, record string
	temporary  bool
	resources  []leases.Resource
}

func (m *manager) snapshotResource(id string) leases.Resource {
	return leases.Resource{ID: id, Type: m.resourceType}
}

func contentResource(dgst string) leases.Resource {
	return leases.Resource{ID: dgst, Type: "content"}
}

// recordLease is what the lease of a record or of its mutable half is to be: it has the record's name and keeps its
// snapshot and its blob.
func (m *manager) recordLease(id, snapshotID string, b *graph.Blob) lease {
	l := lease{id: id, record: id, resources: []leases.Resource{m.snapshotResource(snapshotID)}}
	if b != nil && isDigest(b.Digest) {
		l.resources = append(l.resources, contentResource(b.Digest))
	}
	return l
}

// createLease makes a flat lease on resources, which need not exist yet (spec LEASE-1). One that
// exists already is completed (spec LEASE-7); created tells the cases apart, also with an error.
func (m *manager) createLease(ctx context.Context, l lease) (created bool, err error) {
	now := m.nowText()
	labels := map[string]string{labelGCFlat: now, labelStore: m.storeID, labelRecord: l.record}
	if l.temporary {
		labels[labelTemporary] = now
	}
	lm := m.opt.LeaseManager
	_, err = lm.Create(ctx, leases.WithID(l.id), leases.WithLabels(labels))
	switch {
	case err == nil:
		created = true
	case !errdefs.IsAlreadyExists(err):
		return false, errors.Wrapf(err, "creating lease %q", l.id)
	}
	for _, r := range l.resources {
		if err = lm.AddResource(ctx, leases.Lease{ID: l.id}, r); err != nil && !errdefs.IsAlreadyExists(err) {
			return created, errors.Wrapf(err, "adding %s %q to lease %q", r.Type, r.ID, l.id)
		}
	}
	return created, nil
}

// ensureLease makes the lease of a record whole, should somebody have taken it or something out of it away. Where calls share a transaction
// it is made in any case, for that costs nothing; else the lease is asked first what it lists, so that one call does where nothing is missing.
func (m *manager) ensureLease(ctx context.Context, l lease) error {
	if !m.snapshotsLease() {
		_, err := m.createLease(ctx, l)
		return err
	}
	listed, err := m.opt.LeaseManager.ListResources(ctx, leases.Lease{ID: l.id})
	if err != nil && !errdefs.IsNotFound(err) {
		return errors.Wrapf(err, "listing the resources of lease %q", l.id)
	}
	for _, r := range l.resources {
		if !slices.Contains(listed, r) {
			mark := l.record + repairSuffix
			m.work.add(mark) // not in the record's slot, for which Check would wait otherwise
			defer m.work.remove(mark)
			return m.remakeLease(ctx, l, false)
		}
	}
	return nil
}

// remakeLease makes or completes the lease of a record that has a row, or makes it anew. Unlike with a new
// record, a crash in between must not leave a lease that lists nothing, which a start would take for a
// whole one. Where the calls do not share a transaction, a temporary lease says so meanwhile, and protects
// what is to be protected. The caller is in transact.
func (m *manager) remakeLease(ctx context.Context, l lease, anew bool) (err error) {
	if m.opt.Transactions == nil {
		mark := l
		mark.id, mark.temporary = l.record+repairSuffix, true
		defer func() {
			if err == nil {
				err = m.deleteLeases(ctx, mark.id)
			}
			if err != nil { // a repair that is tried again deletes it, or else the next prune or start
				m.unfinished.add(leftovers{leases: []string{mark.id}})
			}
		}()
		if _, err := m.createLease(ctx, mark); err != nil {
			return err
		}
	}
	if anew {
		if err := m.deleteLeases(ctx, l.id); err != nil {
			return err
		}
	}
	_, err = m.createLease(ctx, l)
	return err
}

// leasesAtOnce is how many calls deleteLeases has under way where each is one by itself, perhaps to another process: enough to hide the way
// there and back, and few for a backend that serves others as well.
const leasesAtOnce = 8

// deleteLeases deletes leases; those that do not exist count as deleted. All are tried, and the first
// error is returned. Many are deleted several at a time, unless they share a transaction.
func (m *manager) deleteLeases(ctx context.Context, ids ...string) error {
	if m.opt.Transactions != nil || len(ids) <= leasesAtOnce {
		var first error
		for _, id := range ids {
			if err := m.deleteLease(ctx, id); first == nil {
				first = err
			}
		}
		return first
	}
	var g errgroup.Group
	g.SetLimit(leasesAtOnce)
	for _, id := range ids {
		g.Go(func() error { return m.deleteLease(ctx, id) })
	}
	return g.Wait()
}

func (m *manager) deleteLease(ctx context.Context, id string) error {
	if err := m.opt.LeaseManager.Delete(ctx, leases.Lease{ID: id}); err != nil && !errdefs.IsNotFound(err) {
		return errors.Wrapf(err, "deleting lease %q", id)
	}
	return nil
}
