package snapshot

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/pkg/errors"
)

// FromContainerdSnapshotter makes a Snapshotter out of containerd's s. Name is what Name returns, idmap
// (may be nil) what IdentityMapping returns. Closing the result closes s.
//
// Commit carries the inheritable labels of the active snapshot over to the committed one; they win over
// equal keys in the options. Options that move the parent (snapshots.WithParent) reach s unchanged.
func FromContainerdSnapshotter(name string, s snapshots.Snapshotter, idmap *user.IdentityMapping) Snapshotter {
	return &fromContainerd{Snapshotter: s, name: name, idmap: idmap}
}

// fromContainerd promotes what needs no translation from the embedded snapshotter.
type fromContainerd struct {
	snapshots.Snapshotter
	name  string
	idmap *user.IdentityMapping
}

func (s *fromContainerd) Name() string { return s.name }

func (s *fromContainerd) IdentityMapping() *user.IdentityMapping { return s.idmap }

func (s *fromContainerd) Mounts(ctx context.Context, key string) (Mountable, error) {
	mounts, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return newStaticMountable(key, mounts, nil, s.idmap), nil
}

func (s *fromContainerd) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	if err := requireKey("key", key); err != nil {
		return err
	}
	_, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
	return err
}

func (s *fromContainerd) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error) {
	if err := requireKey("key", key); err != nil {
		return nil, err
	}
	mounts, err := s.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return newStaticMountable(key, mounts, nil, s.idmap), nil
}

func (s *fromContainerd) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := requireKey("name", name); err != nil {
		return err
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return errors.Wrapf(err, "stat of %q before its commit", key)
	}
	if info.Kind == snapshots.KindView || info.Kind == snapshots.KindCommitted {
		// Said here, since the native snapshotter of containerd looks for the tree before it looks at the kind,
		// and its "no such file" has no category.
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "%q cannot be committed, it is %s", key, info.Kind)
	}
	if inherited := snapshots.FilterInheritedLabels(info.Labels); len(inherited) > 0 {
		// Concat, since appending could write into the caller's array.
		opts = slices.Concat(opts, []snapshots.Opt{snapshots.WithLabels(inherited)})
	}
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

// requireKey exists because containerd's metadata store answers an empty new key with an error of bbolt
// that has no category.
func requireKey(what, key string) error {
	if key == "" {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "empty snapshot %s", what)
	}
	return nil
}
