package fault

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/gc"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
)

// Operations of the remaining parts. A database transaction passes four points: before and after
// the whole call, and within it before fn and after fn. Failing at the point after fn is a commit
// that fails: what fn did inside the database is undone, what it did elsewhere is not. The two
// inner points of a transaction count as a call of their own, OpDBUpdateFn or OpTransactionFn.
const (
	OpDBView         = "db.View"
	OpDBUpdate       = "db.Update"
	OpDBUpdateFn     = "db.Update.fn"
	OpDBClose        = "db.Close"
	OpTransaction    = "transaction.Update"
	OpTransactionFn  = "transaction.Update.fn"
	OpGarbageCollect = "gc.GarbageCollect"
	OpSyncFS         = "fs.Sync"
	OpApply          = "applier.Apply"
	OpCompare        = "differ.Compare"
)

// DB is a database as the cache's metadata store takes it: *bbolt.DB is one.
type DB interface {
	View(fn func(*bbolt.Tx) error) error
	Update(fn func(*bbolt.Tx) error) error
	Close() error
}

type db struct {
	f  *Faults
	db DB
}

// DB wraps a database.
func (f *Faults) DB(d DB) DB { return &db{f: f, db: d} }

func (w *db) View(fn func(*bbolt.Tx) error) error {
	return w.f.Call(context.Background(), OpDBView, "", func() error { return w.db.View(fn) })
}

func (w *db) Update(fn func(*bbolt.Tx) error) error {
	ctx := context.Background()
	return w.f.Call(ctx, OpDBUpdate, "", func() error {
		return w.db.Update(func(tx *bbolt.Tx) error {
			return w.f.Call(ctx, OpDBUpdateFn, "", func() error { return fn(tx) })
		})
	})
}

func (w *db) Close() error {
	return w.f.Call(context.Background(), OpDBClose, "", w.db.Close)
}

// UpdateFunc runs fn in a transaction of the backend that travels in fn's context.
type UpdateFunc func(ctx context.Context, fn func(ctx context.Context) error) error

// Transaction wraps the function that shares a transaction of the backend.
func (f *Faults) Transaction(update UpdateFunc) UpdateFunc {
	return func(ctx context.Context, fn func(context.Context) error) error {
		return f.Call(ctx, OpTransaction, "", func() error {
			return update(ctx, func(ctx context.Context) error {
				return f.Call(ctx, OpTransactionFn, "", func() error { return fn(ctx) })
			})
		})
	}
}

// GarbageCollectFunc removes what no lease protects.
type GarbageCollectFunc func(context.Context) (gc.Stats, error)

// GarbageCollect wraps the backend's garbage collection.
func (f *Faults) GarbageCollect(collect GarbageCollectFunc) GarbageCollectFunc {
	return func(ctx context.Context) (stats gc.Stats, err error) {
		err = f.Call(ctx, OpGarbageCollect, "", func() (err error) {
			stats, err = collect(ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
		return stats, nil
	}
}

// SyncFS wraps what flushes the snapshotter's filesystem.
func (f *Faults) SyncFS(sync func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		return f.Call(ctx, OpSyncFS, "", func() error { return sync(ctx) })
	}
}

type applier struct {
	f *Faults
	a diff.Applier
}

// Applier wraps what unpacks layers. The key is the blob's digest. The result can unpack layers without
// their parents if a can.
func (f *Faults) Applier(a diff.Applier) diff.Applier {
	w := &applier{f: f, a: a}
	if d, ok := a.(snapshot.DetachedApplier); ok {
		return &detachedApplier{applier: w, d: d}
	}
	return w
}

type detachedApplier struct {
	*applier
	d snapshot.DetachedApplier
}

func (w *detachedApplier) ApplyDetached(ctx context.Context, desc ocispecs.Descriptor, dir string, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	return w.f.apply(ctx, desc, func() (ocispecs.Descriptor, error) { return w.d.ApplyDetached(ctx, desc, dir, opts...) })
}

func (w *applier) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	return w.f.apply(ctx, desc, func() (ocispecs.Descriptor, error) { return w.a.Apply(ctx, desc, mounts, opts...) })
}

// apply is one call of an applier.
func (f *Faults) apply(ctx context.Context, desc ocispecs.Descriptor, call func() (ocispecs.Descriptor, error)) (out ocispecs.Descriptor, err error) {
	err = f.Call(ctx, OpApply, desc.Digest.String(), func() (err error) {
		out, err = call()
		return err
	})
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	return out, nil
}

type differ struct {
	f *Faults
	d diff.Comparer
}

// Differ wraps what packs layers.
func (f *Faults) Differ(d diff.Comparer) diff.Comparer { return &differ{f: f, d: d} }

func (w *differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	return get(ctx, w.f, OpCompare, "", func() (ocispecs.Descriptor, error) { return w.d.Compare(ctx, lower, upper, opts...) })
}
