package snapshot

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// NewContainerdSnapshotter makes a snapshotter for containerd's code out of s, and a function that
// releases every mount handed out so far and returns the first error. Each mount is released once, however
// often the function is called; mounts handed out later are released by the next call.
//
// A Prepare whose mounts cannot be had fails although the snapshot is there; the key's lease, or Remove,
// disposes of it. Closing the result closes s.
func NewContainerdSnapshotter(s Snapshotter) (snapshots.Snapshotter, func() error) {
	cs := &toContainerd{Snapshotter: s}
	return cs, cs.release
}

type toContainerd struct {
	Snapshotter

	mu        sync.Mutex
	releasers []func() error
}

func (cs *toContainerd) release() error {
	cs.mu.Lock()
	releasers := cs.releasers
	cs.releasers = nil
	cs.mu.Unlock()

	var first error
	for _, release := range releasers {
		if err := release(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// handOut mounts m for a caller that has no way of giving the mount back.
func (cs *toContainerd) handOut(m Mountable) ([]mount.Mount, error) {
	mounts, release, err := m.Mount()
	if err != nil {
		return nil, err
	}
	if release != nil {
		cs.mu.Lock()
		cs.releasers = append(cs.releasers, release)
		cs.mu.Unlock()
	}
	// m need not be ours: another implementation knows nothing of the rule.
	return processRedirectDir().apply(mounts), nil
}

func (cs *toContainerd) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	m, err := cs.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return cs.handOut(m)
}

func (cs *toContainerd) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := cs.Snapshotter.Prepare(ctx, key, parent, opts...); err != nil {
		return nil, err
	}
	return cs.Mounts(ctx, key)
}

func (cs *toContainerd) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := cs.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return cs.handOut(m)
}
