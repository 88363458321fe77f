package containerd

import (
	"context"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"

	"github.com/layercache/cache/snapshot"
	ctdsnapshot "github.com/layercache/cache/snapshot/containerd"
)

// remembered bounds how many snapshots' labels are remembered. Beyond that some are forgotten, which costs a call each when they are committed
// or measured. An entry takes some 150 bytes.
const remembered = 1 << 14

// snapshotter is the daemon's snapshotter in one namespace. It knows the labels of what this process made, which nobody else has a
// reason to change: Commit has to know those of the active snapshot, as some are inherited, and Usage those of the committed one.
type snapshotter struct {
	snapshot.Snapshotter
	// direct is the snapshotter below, in the same namespace.
	direct snapshot.Snapshotter

	mu sync.Mutex
	// labels are those of active and committed snapshots. They are not changed.
	labels map[string]map[string]string
}

var _ snapshot.LabelKnower = (*snapshotter)(nil)

func newSnapshotter(name string, raw snapshots.Snapshotter, ns string, idmap *user.IdentityMapping) *snapshotter {
	return &snapshotter{
		Snapshotter: ctdsnapshot.NewSnapshotter(name, raw, ns, idmap),
		direct:      ctdsnapshot.NewSnapshotter(name, &activeStat{raw}, ns, idmap),
		labels:      map[string]map[string]string{},
	}
}

// activeStat is a snapshotter that takes every snapshot for an active one without labels, so that Commit above it
// goes straight to the daemon, which looks for itself.
type activeStat struct{ snapshots.Snapshotter }

func (activeStat) Stat(_ context.Context, key string) (snapshots.Info, error) {
	return snapshots.Info{Kind: snapshots.KindActive, Name: key}, nil
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	if err := s.Snapshotter.Prepare(ctx, key, parent, opts...); err != nil {
		return err
	}
	s.remember(key, opts)
	return nil
}

// Commit makes a committed snapshot of an active one. What it inherits is added here if it is known, and else by the snapshotter below.
func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	labels, known := s.forget(key)
	if !known {
		return s.Snapshotter.Commit(ctx, name, key, opts...)
	}
	if inherited := snapshots.FilterInheritedLabels(labels); len(inherited) > 0 {
		opts = slices.Concat(opts, []snapshots.Opt{snapshots.WithLabels(inherited)})
	}
	if err := s.direct.Commit(ctx, name, key, opts...); err != nil {
		return err
	}
	s.remember(name, opts)
	return nil
}

func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	s.forget(info.Name)
	return s.Snapshotter.Update(ctx, info, fieldpaths...)
}

// Walk calls fn for every snapshot that one of the filters matches. With it the call ends, be it that fn does not want to see all.
func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.Snapshotter.Walk(ctx, fn, filters...)
}

// KnownLabels returns the labels of a snapshot that this process committed.
func (s *snapshotter) KnownLabels(key string) (labels map[string]string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	labels, known = s.labels[key]
	return labels, known
}

// remember notes the labels that a snapshot was made with.
func (s *snapshotter) remember(key string, opts []snapshots.Opt) {
	var wish snapshots.Info
	for _, opt := range opts {
		if opt(&wish) != nil {
			return // then it was not made
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.labels {
		if len(s.labels) < remembered {
			break
		}
		delete(s.labels, other)
	}
	s.labels[key] = wish.Labels
}

func (s *snapshotter) forget(key string) (labels map[string]string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	labels, known = s.labels[key]
	delete(s.labels, key)
	return labels, known
}
