package cache

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/snapshot"
)

// remnant is the tree of a record that was never finalized and went with its last ref (spec REF-8). The row and the leases are gone, but the
// snapshot is there until the backend collects what no lease protects. With ManagerOpt.UseAfterRelease, and only then, callers may mount
// it; they get what is left, whole or not at all: each mount has the snapshot under a lease before it looks for it.
type remnant struct {
	mount func() ([]mount.Mount, func() error, error)
	idmap *user.IdentityMapping
}

func (r remnant) Mount() ([]mount.Mount, func() error, error) { return r.mount() }

func (r remnant) IdentityMapping() *user.IdentityMapping { return r.idmap }

// mountRemnant returns the remnant of a ref's record, for reading; if there is none, the error is errReleased.
func (r *immutableRef) mountRemnant(ctx context.Context) (snapshot.Mountable, error) {
	m := r.m
	key, ok := r.remnantKey()
	if !ok {
		return nil, errReleased
	}
	if _, err := m.opt.Snapshotter.Stat(ctx, key); err != nil {
		return nil, collected(err)
	}
	ctx = context.WithoutCancel(ctx)
	tree := remnant{
		mount: func() ([]mount.Mount, func() error, error) {
			if _, ok := r.remnantKey(); !ok { // a removal that failed was taken back, and somebody may write to the tree again
				return nil, nil, errors.Wrapf(errReleased, "mounting record %q", r.id)
			}
			return m.openRemnant(ctx, r.id, key)
		},
		idmap: m.IdentityMapping(),
	}
	return snapshot.ReadOnly(tree), nil
}

// remnantKey names the snapshot that a ref's record has left.
func (r *immutableRef) remnantKey() (key string, ok bool) {
	st := r.m.g.Status(r.rec)
	return st.MutSnapshot, st.Imm == r.id && st.MutSnapshot != "" && !st.SnapshotCommitted && st.State >= graph.Condemned
}

// openRemnant mounts a snapshot that is nobody's, under a lease that ends with the mount.
func (m *manager) openRemnant(ctx context.Context, id, key string) ([]mount.Mount, func() error, error) {
	if err := m.life.begin(); err != nil {
		return nil, nil, errors.Wrapf(err, "mounting record %q", id)
	}
	defer m.life.end()
	work, err := m.leaseWork(ctx, id, nil, m.snapshotResource(key))
	if err != nil {
		return nil, nil, err
	}
	mounts, release, err := m.mountsOf(work.with(ctx), key)
	if err != nil {
		work.end(ctx)
		return nil, nil, errors.Wrapf(collected(err), "mounting record %q", id)
	}
	var once sync.Once
	return mounts, func() (err error) {
		once.Do(func() {
			if release != nil {
				err = release()
			}
			work.end(ctx)
		})
		return err
	}, nil
}

func (m *manager) mountsOf(ctx context.Context, key string) ([]mount.Mount, func() error, error) {
	mountable, err := m.opt.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	return checkedMountable{mountable}.Mount()
}

// collected makes of a snapshot that was not found a ref that was released.
func collected(err error) error {
	if errdefs.IsNotFound(err) {
		return errors.Wrap(errReleased, "its snapshot has been collected")
	}
	return err
}
