package snapshot

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/moby/sys/userns"
	"github.com/pkg/errors"
)

// Diff is what leads from one tree to another, as a layer does.
type Diff struct {
	// Lower and Upper name snapshots, "" an empty tree. An empty Upper deletes everything that Lower has.
	Lower, Upper string
}

// MergeSnapshotter is a Snapshotter that can put differences on top of one another.
type MergeSnapshotter interface {
	Snapshotter
	// Merge makes the committed snapshot key: what comes of exporting the diffs as layers and unpacking these, in order, into
	// an empty directory. No diffs are an empty tree. The options are applied when it is committed, beside the labels that
	// Usage reads.
	//
	// Files are hard links to those of the snapshots where their snapshotter allows that, else clones that share their blocks
	// where the filesystem can do that, else copies: see MergeReport. Linked ones must never be written to in place, which nobody can do who goes
	// through snapshots. On an overlay the diffs at the beginning that are the layers of a snapshot are not applied; that
	// snapshot becomes the parent.
	//
	// It works under the lease of the context, or else under a temporary one; then key is for the caller to protect: a lease of his may
	// name it before it exists. Nothing is left of a Merge that failed.
	//
	// Errors are already exists if there is a snapshot key, not found for a snapshot that does not exist, invalid argument for an empty key,
	// failed precondition for layers that overlayfs wrote with redirect_dir, the context's, and not implemented where the system is
	// not Linux and something would have to be applied.
	Merge(ctx context.Context, key string, diffs []Diff, opts ...snapshots.Opt) error
}

// MergeOptions are what NewMergeSnapshotterWith takes beside the parts.
type MergeOptions struct {
	// Capabilities replace what is known of the snapshotter's name.
	Capabilities *Capabilities
	// Report, if not nil, is told of each Merge that succeeded, in its goroutine and before it returns.
	Report func(ctx context.Context, r MergeReport)
}

// MergeReport tells how a merge was made.
type MergeReport struct {
	// Key is the snapshot.
	Key string
	// Skipped diffs were there already, in the snapshot that became the parent. Applied is how many were not.
	Skipped, Applied int
	// Linked files share their inode with the source, and Cloned files their blocks. Copied ones share nothing; CopiedBytes
	// is their content in bytes, holes included.
	Linked, Cloned, Copied, CopiedBytes int64
	// NotLinked is the first reason why a file was not linked although the snapshotter allows links: EXDEV if the source is on another
	// filesystem, EMLINK if it has as many links as it can have. Nil if there was none.
	NotLinked error
	// Duration is how long it took.
	Duration time.Duration
}

// NewMergeSnapshotter returns a MergeSnapshotter that makes snapshots with sn, and does what CapabilitiesOf allows for sn's name. In a user
// namespace an overlay is tried out first, for which a snapshot is made and removed; should that fail, files are copied, and
// the log says so.
//
// The lease manager is sn's. It may be nil if nothing collects sn's snapshots.
func NewMergeSnapshotter(ctx context.Context, sn Snapshotter, lm leases.Manager) MergeSnapshotter {
	return NewMergeSnapshotterWith(ctx, sn, lm, MergeOptions{})
}

// NewMergeSnapshotterWith is NewMergeSnapshotter with options.
func NewMergeSnapshotterWith(ctx context.Context, sn Snapshotter, lm leases.Manager, opt MergeOptions) MergeSnapshotter {
	caps := CapabilitiesOf(sn.Name())
	if opt.Capabilities != nil {
		caps = *opt.Capabilities
	}
	m := &mergeSnapshotter{Snapshotter: sn, lm: lm, report: opt.Report, link: caps.HardlinkMerge, overlay: caps.OverlayBased, skip: caps.OverlayBased}
	if caps.OverlayBased && userns.RunningInUserNS() {
		if err := m.probeUserXattr(ctx); err != nil {
			log.G(ctx).WithError(err).WithField("snapshotter", sn.Name()).
				Warn("snapshot: overlays with userxattr do not work in this user namespace, so merges are copies")
			m.link, m.skip = false, false
		} else {
			m.userXattr = true
		}
	}
	return m
}

type mergeSnapshotter struct {
	Snapshotter
	lm     leases.Manager
	report func(context.Context, MergeReport)

	// link allows hard links between snapshots, and skip a parent in place of the first diffs.
	link, skip bool
	// overlay says that the snapshots' directories have an overlay's marks, userXattr which.
	overlay, userXattr bool
	// slow is for saying once that merges are slower than they could be.
	slow sync.Once
}

// maxBaseDepth is how many layers the parent of a merge may have. The kernel takes 500 directories, and the options of a
// mount 4096 bytes, into which some 350 short names fit. What is beyond this limit is applied, which leaves room to build on top (fault 38).
const maxBaseDepth = 250

// base returns the snapshot to start from, and how many diffs it covers (spec MRG-3). As the first of them starts from nothing, that is also how
// many layers the snapshot has.
func (sn *mergeSnapshotter) base(ctx context.Context, diffs []Diff) (base string, n int, err error) {
	if !sn.skip {
		return "", 0, nil
	}
	for _, d := range diffs {
		if d.Upper == "" || d.Lower != base || n == maxBaseDepth {
			break
		}
		info, err := sn.Stat(ctx, d.Upper)
		if err != nil {
			return "", 0, errors.Wrapf(err, "upper snapshot %s", d.Upper)
		}
		if info.Parent != d.Lower || info.Kind != snapshots.KindCommitted {
			break
		}
		base, n = d.Upper, n+1
	}
	return base, n, nil
}

func (sn *mergeSnapshotter) Merge(ctx context.Context, key string, diffs []Diff, opts ...snapshots.Opt) (err error) {
	defer func() { err = errors.WithMessagef(err, "merging %d diffs into %q", len(diffs), key) }()
	start := time.Now()
	if key == "" {
		return errors.Wrap(errdefs.ErrInvalidArgument, "a merge needs a key")
	}
	switch _, err := sn.Stat(ctx, key); {
	case err == nil:
		return errors.WithStack(errdefs.ErrAlreadyExists)
	case !errdefs.IsNotFound(err):
		return err
	}
	base, skipped, err := sn.base(ctx, diffs)
	if err != nil {
		return err
	}
	ctx, work, err := sn.begin(ctx)
	if err != nil {
		return err
	}
	defer work.end(ctx)

	target := work.newKey()
	if err := sn.Prepare(ctx, target, base); err != nil {
		return errors.Wrap(err, "preparing the snapshot to merge into")
	}
	r, usage, err := sn.apply(ctx, work, target, diffs[skipped:])
	if err != nil {
		return err
	}
	if err := sn.Commit(ctx, key, target, append(opts[:len(opts):len(opts)], usage...)...); err != nil {
		return errors.Wrap(err, "committing")
	}
	work.committed(target)
	r.Key, r.Skipped, r.Applied, r.Duration = key, skipped, len(diffs)-skipped, time.Since(start)
	sn.tell(ctx, r)
	return nil
}

// tell reports how a merge was made, and the first time that it was slower than the caller may expect.
func (sn *mergeSnapshotter) tell(ctx context.Context, r MergeReport) {
	if sn.report != nil {
		sn.report(ctx, r)
	}
	if r.CopiedBytes == 0 {
		return
	}
	reason := "its snapshotter cannot link files, nor its filesystem clone them"
	switch {
	case r.NotLinked != nil && sn.link:
		reason = "linking failed: " + r.NotLinked.Error()
	case r.Cloned > 0:
		return // what was copied is the exception
	}
	sn.slow.Do(func() {
		log.G(ctx).WithFields(log.Fields{"snapshotter": sn.Name(), "files": r.Copied, "bytes": r.CopiedBytes}).
			Warnf("snapshot: a merge copied files, as %s; said once", reason)
	})
}
