package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/overlaymounts"
	"github.com/layercache/cache/internal/treediff"
	"github.com/layercache/cache/internal/treemerge"
)

// apply applies diffs to the active snapshot key, and returns the options to commit it with.
func (sn *mergeSnapshotter) apply(ctx context.Context, work *mergeWork, key string, diffs []Diff) (r MergeReport, opts []snapshots.Opt, err error) {
	m, err := sn.Mounts(ctx, key)
	if err != nil {
		return r, nil, errors.Wrap(err, "mounting the snapshot to merge into")
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return r, nil, errors.Wrap(err, "mounting the snapshot to merge into")
	}
	defer func() { err = releaseAfter(release, err) }()
	if len(mounts) != 1 {
		return r, nil, errors.Errorf("the snapshot to merge into has %d mounts and not one", len(mounts))
	}
	target, unmount, err := sn.target(mounts)
	if err != nil {
		return r, nil, err
	}
	defer func() { err = releaseAfter(unmount, err) }()
	tm, err := treemerge.Open(target, treemerge.Options{
		Link: sn.link,
		Log: func(path, attr string, err error) {
			log.G(ctx).WithError(err).Debugf("snapshot: extended attribute %s of %s in a merge could not be set", attr, path)
		},
	})
	if err != nil {
		return r, nil, err
	}
	defer tm.Close()
	sides := newSides(sn, work, diffs)
	for i, d := range diffs {
		if err := sides.apply(ctx, tm, i, d); err != nil {
			return r, nil, errors.WithMessagef(err, "diff %q -> %q", d.Lower, d.Upper)
		}
	}
	u, err := tm.Finish(ctx)
	if err != nil {
		return r, nil, errors.WithMessage(err, "finishing")
	}
	st := tm.Stats()
	r = MergeReport{Linked: st.Linked, Cloned: st.Cloned, Copied: st.Copied, CopiedBytes: st.Bytes, NotLinked: st.NoLink}
	return r, []snapshots.Opt{withMergeUsage(snapshots.Usage{Size: u.Size, Inodes: u.Inodes})}, nil
}

// releaseAfter calls release, and adds its error to err.
func releaseAfter(release func() error, err error) error {
	if release == nil {
		return err
	}
	rerr := release()
	if err == nil {
		return errors.Wrap(rerr, "releasing a mount")
	}
	if rerr != nil {
		err = errors.WithMessagef(err, "releasing a mount failed, too (%v), after", rerr)
	}
	return err
}

// target tells what to write to for a snapshot with these mounts (spec APP-1).
func (sn *mergeSnapshotter) target(mounts []mount.Mount) (treemerge.Target, func() error, error) {
	m := mounts[0]
	switch {
	case isBind(m):
		return treemerge.Target{Dir: m.Source}, nil, nil
	case m.Type == overlayType:
		layers, upper, _ := overlaymounts.Layers(m) // whatever else it says, this is where writes go
		if !upper || len(layers.Dirs) < 2 {
			return treemerge.Target{}, nil, errors.Errorf("the overlay to merge into has no upper or no lower directory: %s", describe(mounts))
		}
		t := treemerge.Target{Dir: layers.Dirs[0], Overlay: true, Base: layers}
		t.Base.Dirs = t.Base.Dirs[1:]
		return t, nil, nil
	}
	lm := LocalMounterWithMounts(mounts)
	dir, err := lm.Mount()
	return treemerge.Target{Dir: dir}, lm.Unmount, err
}

// sides are the snapshots that diffs are made of.
type sides struct {
	sn   *mergeSnapshotter
	work *mergeWork
	// last is the last diff that needs a snapshot.
	last map[string]int
	// views are those that are there.
	views map[string]view
}

// view is a snapshot that can be mounted.
type view struct {
	Mountable
	// key is the view's, "" if none had to be made.
	key    string
	parent string
}

func newSides(sn *mergeSnapshotter, work *mergeWork, diffs []Diff) *sides {
	s := &sides{sn: sn, work: work, last: map[string]int{}, views: map[string]view{}}
	for i, d := range diffs {
		s.last[d.Lower], s.last[d.Upper] = i, i
	}
	return s
}

// apply applies the i-th diff. Its mounts are released when it is done (spec DIF-2).
func (s *sides) apply(ctx context.Context, tm *treemerge.Merge, i int, d Diff) (err error) {
	if d.Lower == d.Upper {
		return nil
	}
	defer func() {
		for _, key := range []string{d.Lower, d.Upper} {
			if v, ok := s.views[key]; ok && s.last[key] == i {
				delete(s.views, key)
				if v.key != "" {
					s.work.remove(ctx, v.key)
				}
			}
		}
	}()
	upper, parent, closeUpper, err := s.open(ctx, d.Upper)
	if err != nil {
		return errors.WithMessage(err, "upper snapshot")
	}
	defer func() { err = releaseAfter(closeUpper, err) }()
	if d.Lower != "" && d.Lower == parent && s.sn.overlay && len(upper.Dirs) > 1 {
		// An overlay's parent is all of it but the topmost layer: it needs no view of its own.
		lower := upper
		lower.Dirs = lower.Dirs[1:]
		return tm.Apply(ctx, lower, upper)
	}
	lower, _, closeLower, err := s.open(ctx, d.Lower)
	if err != nil {
		return errors.WithMessage(err, "lower snapshot")
	}
	defer func() { err = releaseAfter(closeLower, err) }()
	return tm.Apply(ctx, lower, upper)
}

// open tells where the tree of a snapshot lies, and which its parent is.
func (s *sides) open(ctx context.Context, key string) (_ treediff.Layers, parent string, closeTree func() error, err error) {
	if key == "" {
		return treediff.Layers{}, "", nil, nil
	}
	v, ok := s.views[key]
	if !ok {
		if v, err = s.view(ctx, key); err != nil {
			return treediff.Layers{}, "", nil, err
		}
		s.views[key] = v
	}
	mounts, release, err := v.Mount()
	if err != nil {
		return treediff.Layers{}, "", nil, errors.Wrapf(err, "mounting %s", key)
	}
	layers, unmount, err := s.sn.layers(mounts)
	if err != nil {
		return treediff.Layers{}, "", nil, releaseAfter(release, err)
	}
	return layers, v.parent, func() error { return releaseAfter(release, releaseAfter(unmount, nil)) }, nil
}

// view makes a view of a committed snapshot; others can be mounted as they are (spec DIF-1).
func (s *sides) view(ctx context.Context, key string) (v view, err error) {
	info, err := s.sn.Stat(ctx, key)
	if err != nil {
		return v, errors.Wrap(err, key)
	}
	v.parent = info.Parent
	if info.Kind == snapshots.KindCommitted {
		v.key = s.work.newKey()
		v.Mountable, err = s.sn.View(ctx, v.key, key)
	} else {
		v.Mountable, err = s.sn.Mounts(ctx, key)
	}
	return v, errors.Wrapf(err, "mounting %s", key)
}

// layers tells where a tree with these mounts lies. What is not made of directories that can be read as they are is mounted.
func (sn *mergeSnapshotter) layers(mounts []mount.Mount) (treediff.Layers, func() error, error) {
	if len(mounts) == 1 {
		switch m := mounts[0]; {
		case isBind(m):
			l := treediff.Layers{Dirs: []string{m.Source}}
			if sn.overlay {
				l.Marks = overlaymounts.MarksOf(sn.userXattr)
			}
			return l, nil, nil
		case m.Type == overlayType:
			if l, _, known := overlaymounts.Layers(m); known {
				return l, nil, nil
			}
		}
	}
	lm := LocalMounterWithMounts(mounts)
	dir, err := lm.Mount()
	return treediff.Layers{Dirs: []string{dir}}, lm.Unmount, err
}
