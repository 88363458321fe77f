package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/sys/user"

	"github.com/layercache/cache/snapshot"
)

// NewSnapshotter returns the snapshots that s keeps in namespace ns as a snapshot.Snapshotter called name; see
// snapshot.FromContainerdSnapshotter and NSSnapshotter. idmap may be nil.
func NewSnapshotter(name string, s snapshots.Snapshotter, ns string, idmap *user.IdentityMapping) snapshot.Snapshotter {
	return snapshot.FromContainerdSnapshotter(name, NSSnapshotter(ns, s), idmap)
}

// NSSnapshotter returns s with every call made in namespace ns. Remove fails with a permission denied error.
// Close closes s.
func NSSnapshotter(ns string, s snapshots.Snapshotter) snapshots.Snapshotter {
	return &nsSnapshotter{s: s, ns: ns}
}

// nsSnapshotter embeds nothing: a method that containerd's interface gains must not slip past the namespace.
type nsSnapshotter struct {
	s  snapshots.Snapshotter
	ns string
}

func (n *nsSnapshotter) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, n.ns)
}

func (n *nsSnapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return n.s.Stat(n.in(ctx), key)
}

func (n *nsSnapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return n.s.Update(n.in(ctx), info, fieldpaths...)
}

func (n *nsSnapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return n.s.Usage(n.in(ctx), key)
}

func (n *nsSnapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return n.s.Mounts(n.in(ctx), key)
}

func (n *nsSnapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return n.s.Prepare(n.in(ctx), key, parent, opts...)
}

func (n *nsSnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return n.s.View(n.in(ctx), key, parent, opts...)
}

func (n *nsSnapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return n.s.Commit(n.in(ctx), name, key, opts...)
}

func (n *nsSnapshotter) Remove(_ context.Context, key string) error {
	return errForbidden("snapshot", key)
}

func (n *nsSnapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return n.s.Walk(n.in(ctx), fn, filters...)
}

func (n *nsSnapshotter) Close() error { return n.s.Close() }
