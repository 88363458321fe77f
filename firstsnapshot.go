package cache

import (
	"context"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// firstSnapshot has the first snapshot of a process be made while no other is, and no garbage is collected, and tries twice.
//
// containerd's snapshotters number directories by a sequence in their database, and put a new one in its place before they
// commit. A kill in between takes the number back, but leaves the directory. The first snapshot that the next
// process makes gets the same number, and fails with "file exists"; which is when they remove the directory. So a second try works. But
// the removal takes whatever has that name by then: it, and that of a collection which has seen the directory, may hit the snapshot of
// somebody else, who has the number now. Once a snapshot is made, the number is used up.
//
// A backend whose calls share transactions sees to that itself, for waiting here could keep others from ending theirs; so does
// local.Open. One in another process, whose numbers are none of ours, is known by an error that no other gives; without that, those who wait
// for one that hangs would find out one after the other.
type firstSnapshot struct {
	snapshot.Snapshotter
	made atomic.Bool
	turn chan struct{} // of one
}

// guardFirst makes the first snapshot by opt a careful one, where nobody else does.
func guardFirst(opt *ManagerOpt) {
	if opt.Transactions != nil {
		return
	}
	s := &firstSnapshot{Snapshotter: opt.Snapshotter, turn: make(chan struct{}, 1)}
	opt.Snapshotter = s
	if opt.GarbageCollect != nil {
		opt.GarbageCollect = s.collecting(opt.GarbageCollect)
	}
}

func (s *firstSnapshot) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	return s.making(ctx, func() error { return s.Snapshotter.Prepare(ctx, key, parent, opts...) })
}

func (s *firstSnapshot) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (m snapshot.Mountable, err error) {
	err = s.making(ctx, func() error {
		m, err = s.Snapshotter.View(ctx, key, parent, opts...)
		return err
	})
	return m, err
}

// making runs what makes a snapshot.
func (s *firstSnapshot) making(ctx context.Context, fn func() error) error {
	return s.alone(ctx, func() error {
		err := fn()
		if inTheWay(err) && !s.made.Load() {
			log.G(ctx).WithError(err).Info("layer cache: a snapshot was being made when a process died")
			err = fn()
		}
		if err == nil || elsewhere(ctx, err) {
			s.made.Store(true)
		}
		return err
	})
}

// KnownLabels is there for a snapshotter that has it (snapshot.LabelKnower).
func (s *firstSnapshot) KnownLabels(key string) (labels map[string]string, known bool) {
	if k, ok := s.Snapshotter.(snapshot.LabelKnower); ok {
		return k.KnownLabels(key)
	}
	return nil, false
}

var _ snapshot.LabelKnower = (*firstSnapshot)(nil)

// alone runs fn while nobody else does, until a snapshot is made.
func (s *firstSnapshot) alone(ctx context.Context, fn func() error) error {
	if s.made.Load() {
		return fn()
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return errors.Wrap(context.Cause(ctx), "waiting for the first snapshot to be made")
	}
	if s.made.Load() {
		<-s.turn
		return fn()
	}
	defer func() { <-s.turn }()
	return fn()
}

// collecting runs a garbage collection as everything else that makes or removes snapshots.
func (s *firstSnapshot) collecting(collect func(context.Context) (gc.Stats, error)) func(context.Context) (gc.Stats, error) {
	return func(ctx context.Context) (stats gc.Stats, err error) {
		err = s.alone(ctx, func() error {
			stats, err = collect(ctx)
			return err
		})
		return stats, err
	}
}

// inTheWay tells whether a new directory could not be moved to its place because there is one.
func inTheWay(err error) bool {
	var link *os.LinkError
	return errors.As(err, &link) && link.Op == "rename" && errors.Is(link, fs.ErrExist)
}

// elsewhere tells whether an error is that of a backend in another process, which does not answer.
func elsewhere(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err))
}
