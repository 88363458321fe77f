package fault

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"

	"github.com/layercache/cache/mountable"
)

// Operations of a snapshotter. The key is the snapshot's key or name; a commit's is the new name.
const (
	OpSnapshotMounts  = "snapshots.Mounts"
	OpSnapshotPrepare = "snapshots.Prepare"
	OpSnapshotView    = "snapshots.View"
	OpSnapshotStat    = "snapshots.Stat"
	OpSnapshotUpdate  = "snapshots.Update"
	OpSnapshotUsage   = "snapshots.Usage"
	OpSnapshotCommit  = "snapshots.Commit"
	OpSnapshotRemove  = "snapshots.Remove"
	OpSnapshotWalk    = "snapshots.Walk"
	OpSnapshotClose   = "snapshots.Close"
	OpSnapshotCleanup = "snapshots.Cleanup"
)

// common are the methods that the cache's and containerd's snapshotters share.
type common interface {
	Stat(ctx context.Context, key string) (snapshots.Info, error)
	Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error)
	Usage(ctx context.Context, key string) (snapshots.Usage, error)
	Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error
	Remove(ctx context.Context, key string) error
	Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error
	Close() error
}

type commonWrapper struct {
	f *Faults
	s common
}

func (w *commonWrapper) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return get(ctx, w.f, OpSnapshotStat, key, func() (snapshots.Info, error) { return w.s.Stat(ctx, key) })
}

func (w *commonWrapper) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return get(ctx, w.f, OpSnapshotUpdate, info.Name, func() (snapshots.Info, error) { return w.s.Update(ctx, info, fieldpaths...) })
}

func (w *commonWrapper) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return get(ctx, w.f, OpSnapshotUsage, key, func() (snapshots.Usage, error) { return w.s.Usage(ctx, key) })
}

func (w *commonWrapper) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return w.f.Call(ctx, OpSnapshotCommit, name, func() error {
		return w.s.Commit(ctx, name, key, opts...)
	})
}

func (w *commonWrapper) Remove(ctx context.Context, key string) error {
	return w.f.Call(ctx, OpSnapshotRemove, key, func() error { return w.s.Remove(ctx, key) })
}

func (w *commonWrapper) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return w.f.Call(ctx, OpSnapshotWalk, "", func() error { return w.s.Walk(ctx, fn, filters...) })
}

func (w *commonWrapper) Close() error {
	return w.f.Call(context.Background(), OpSnapshotClose, "", w.s.Close)
}

// Snapshotter has the method set of the cache's snapshot.Snapshotter, and either can be assigned
// to the other.
type Snapshotter interface {
	common
	Name() string
	Mounts(ctx context.Context, key string) (mountable.Mountable, error)
	Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error
	View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mountable.Mountable, error)
	IdentityMapping() *user.IdentityMapping
}

type snapshotter struct {
	commonWrapper
	s Snapshotter
}

// Snapshotter wraps a snapshotter of the cache. Name and IdentityMapping pass no points, since
// they ask for constants.
func (f *Faults) Snapshotter(s Snapshotter) Snapshotter {
	return &snapshotter{commonWrapper: commonWrapper{f: f, s: s}, s: s}
}

func (w *snapshotter) Name() string { return w.s.Name() }

func (w *snapshotter) IdentityMapping() *user.IdentityMapping { return w.s.IdentityMapping() }

func (w *snapshotter) Mounts(ctx context.Context, key string) (mountable.Mountable, error) {
	return get(ctx, w.f, OpSnapshotMounts, key, func() (mountable.Mountable, error) { return w.s.Mounts(ctx, key) })
}

func (w *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	return w.f.Call(ctx, OpSnapshotPrepare, key, func() error {
		return w.s.Prepare(ctx, key, parent, opts...)
	})
}

func (w *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mountable.Mountable, error) {
	return get(ctx, w.f, OpSnapshotView, key, func() (mountable.Mountable, error) { return w.s.View(ctx, key, parent, opts...) })
}

type containerdSnapshotter struct {
	commonWrapper
	s snapshots.Snapshotter
}

// ContainerdSnapshotter wraps a snapshotter of containerd, such as the one below containerd's metadata
// database, under the same operations as Snapshotter. The result always has containerd's Cleanup,
// which fails with "not implemented" if s does not have it.
func (f *Faults) ContainerdSnapshotter(s snapshots.Snapshotter) snapshots.Snapshotter {
	return &containerdSnapshotter{commonWrapper: commonWrapper{f: f, s: s}, s: s}
}

func (w *containerdSnapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return get(ctx, w.f, OpSnapshotMounts, key, func() ([]mount.Mount, error) { return w.s.Mounts(ctx, key) })
}

func (w *containerdSnapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return get(ctx, w.f, OpSnapshotPrepare, key, func() ([]mount.Mount, error) { return w.s.Prepare(ctx, key, parent, opts...) })
}

func (w *containerdSnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return get(ctx, w.f, OpSnapshotView, key, func() ([]mount.Mount, error) { return w.s.View(ctx, key, parent, opts...) })
}

// Cleanup runs containerd's asynchronous removal.
func (w *containerdSnapshotter) Cleanup(ctx context.Context) error {
	return w.f.Call(ctx, OpSnapshotCleanup, "", func() error {
		if c, ok := w.s.(snapshots.Cleaner); ok {
			return c.Cleanup(ctx)
		}
		return errdefs.ErrNotImplemented
	})
}
