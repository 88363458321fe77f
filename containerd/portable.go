package containerd

import (
	"context"
	"crypto/rand"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// portable makes merges where this process cannot work in the snapshots' directories: the daemon packs each difference into a blob,
// and unpacks the blobs one on top of the other. Files are copied.
type portable struct {
	snapshot.Snapshotter
	p  *Parts
	df *diffService
}

var _ snapshot.MergeSnapshotter = (*portable)(nil)

// Merge is snapshot.MergeSnapshotter's. On an overlay nothing is skipped at the beginning, so the result has no parent.
func (s *portable) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) (err error) {
	defer func() { err = errors.WithMessagef(err, "merging %d diffs into %q", len(diffs), key) }()
	if key == "" {
		return invalid("a merge needs a key")
	}
	switch _, err := s.Stat(ctx, key); {
	case err == nil:
		return errors.WithStack(errdefs.ErrAlreadyExists)
	case !errdefs.IsNotFound(err):
		return err
	}
	target, _ := leases.FromContext(ctx)
	// The blobs in between are for the time of the merge alone, whatever lease the caller has.
	l, err := s.p.temporaryLease(ctx)
	if err != nil {
		return err
	}
	defer s.p.dropTemporary(ctx, l)
	wctx := leases.WithLease(ctx, l.ID)
	work := "merge-" + rand.Text()
	if err := s.Prepare(wctx, work, ""); err != nil {
		return errors.Wrap(err, "preparing the snapshot to merge into")
	}
	for _, d := range diffs {
		if err := s.apply(wctx, work, d); err != nil {
			return errors.WithMessagef(err, "diff %q -> %q", d.Lower, d.Upper)
		}
	}
	if target != "" {
		wctx = leases.WithLease(ctx, target)
	}
	return errors.Wrap(s.Commit(wctx, key, work, opts...), "committing")
}

// apply puts one difference on top of the active snapshot.
func (s *portable) apply(ctx context.Context, work string, d snapshot.Diff) (err error) {
	if d.Lower == d.Upper {
		return nil
	}
	lower, err := s.side(ctx, d.Lower)
	if err != nil {
		return errors.WithMessage(err, "lower snapshot")
	}
	upper, err := s.side(ctx, d.Upper)
	if err != nil {
		return errors.WithMessage(err, "upper snapshot")
	}
	blob, err := s.df.Compare(ctx, lower, upper, diff.WithMediaType(ocispecs.MediaTypeImageLayer), diff.WithReference("merge-"+rand.Text()))
	if err != nil {
		return errors.Wrap(err, "packing the difference")
	}
	mounts, err := mountsOf(s.Mounts(ctx, work))
	if err != nil {
		return err
	}
	_, err = s.df.Apply(ctx, blob, mounts)
	return errors.Wrap(err, "unpacking the difference")
}

// side returns the mounts of a snapshot, "" being an empty tree. What has to be made for that goes with the context's lease.
func (s *portable) side(ctx context.Context, key string) ([]mount.Mount, error) {
	if key == "" {
		return nil, nil
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if info.Kind == snapshots.KindCommitted {
		return mountsOf(s.View(ctx, "merge-"+rand.Text(), key))
	}
	return mountsOf(s.Mounts(ctx, key))
}

// mountsOf returns what the daemon would mount. Its mountables have nothing to release.
func mountsOf(m snapshot.Mountable, err error) ([]mount.Mount, error) {
	if err != nil {
		return nil, err
	}
	mounts, _, err := m.Mount()
	return mounts, err
}
