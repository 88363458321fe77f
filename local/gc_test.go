package local

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// There is nothing to collect in a new directory, which is no error.
func TestCollectNothing(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		_, err := p.GarbageCollect(t.Context())
		require.NoError(t, err)
	})
}

// Collections that are asked for at the same time are not in each other's way: when they are over
// everything is gone from the snapshotter, what is unknown to containerd's metadata included, and each
// removal was that of the collection whose turn it was.
func TestCollectionsTakeTurns(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		var p *Parts
		var removals, outOfTurn atomic.Int32
		opts.WrapSnapshotter = func(s snapshots.Snapshotter) snapshots.Snapshotter {
			return &removeHook{s, func() {
				removals.Add(1)
				if p.collecting.TryLock() {
					outOfTurn.Add(1)
					p.collecting.Unlock()
				}
			}}
		}
		p = openParts(t, t.TempDir(), opts)
		for round := range 3 {
			for i := range 8 {
				name := fmt.Sprintf("r%d-%d", round, i)
				newLayer(t, p, name, "")
				require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: name}))
				_, err := p.guard.Prepare(t.Context(), fmt.Sprintf("buildkit/%d/orphan-%s", 1000+i, name), "")
				require.NoError(t, err)
			}
			p.guard.untidy.Store(true)
			var group errgroup.Group
			for range 3 {
				group.Go(func() error {
					_, err := p.GarbageCollect(t.Context())
					return err
				})
			}
			require.NoError(t, group.Wait())
			require.Empty(t, names(t, p.guard))
		}
		require.NotZero(t, removals.Load())
		require.Zero(t, outOfTurn.Load())
	})
}

// removeHook calls hook before each removal.
type removeHook struct {
	snapshots.Snapshotter
	hook func()
}

func (s *removeHook) Remove(ctx context.Context, key string) error {
	s.hook()
	return s.Snapshotter.Remove(ctx, key)
}

func (s *removeHook) Cleanup(ctx context.Context) error {
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return errdefs.ErrNotImplemented
}
