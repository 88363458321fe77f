package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// Makers, removers, viewers, writers of blobs and garbage collection work on one directory at the
// same time. Nobody waits for ever, nothing that is leased disappears, and everything else is
// gone at the end (design section 5, fault 27).
func TestStress(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		rounds := stressRounds(t)
		p := openParts(t, memoryDir(t), opts)
		newLayer(t, p, "base", "")
		w := &stress{p: p, watch: newWatchdog(t)}
		w.run(t, rounds)

		_, err := p.GarbageCollect(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"base"}, layerFiles(t, p, "base"))
		require.Len(t, snapshotDirs(t, p), 1)
		all, err := p.LeaseManager.List(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		blobs, err := filepath.Glob(filepath.Join(p.Dir, "content", "blobs", "sha256", "*"))
		require.NoError(t, err)
		require.Empty(t, blobs)
	})
}

// memoryDir is a directory in memory where there is one: syncs are not what is tested here.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "layercache-stress")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// stressRounds is how often each of the ten workers goes round. The environment can ask for more,
// which a full run does.
func stressRounds(t *testing.T) int {
	if testing.Short() {
		return 10
	}
	text := os.Getenv("LAYERCACHE_STRESS_ROUNDS")
	if text == "" {
		return 40
	}
	rounds, err := strconv.Atoi(text)
	require.NoError(t, err)
	return rounds
}

type stress struct {
	p     *Parts
	watch *watchdog
}

func (s *stress) run(t *testing.T, rounds int) {
	done := make(chan struct{})
	var workers, collectors errgroup.Group
	for i := range 4 {
		workers.Go(s.loop(rounds, func(ctx context.Context, n int) error { return s.layer(ctx, fmt.Sprintf("layer-%d-%d", i, n)) }))
	}
	for i := range 2 {
		workers.Go(s.loop(rounds, func(ctx context.Context, n int) error { return s.view(ctx, fmt.Sprintf("view-%d-%d", i, n), n%2 == 0) }))
		workers.Go(s.loop(rounds, func(ctx context.Context, n int) error { return s.blob(ctx, fmt.Sprintf("blob-%d-%d", i, n)) }))
		workers.Go(s.loop(rounds, func(ctx context.Context, n int) error { return s.failing(ctx, fmt.Sprintf("failing-%d-%d", i, n)) }))
	}
	var collections int
	collectors.Go(func() error {
		for {
			select {
			case <-done:
				return nil
			default:
			}
			if _, err := s.p.GarbageCollect(context.Background()); err != nil {
				return err
			}
			collections++
			s.watch.step()
		}
	})
	err := workers.Wait()
	close(done)
	require.NoError(t, errors.Join(err, collectors.Wait()))
	t.Logf("%d collections", collections)
	require.Positive(t, collections)
}

func (s *stress) loop(rounds int, fn func(ctx context.Context, n int) error) func() error {
	return func() error {
		for n := range rounds {
			if err := fn(context.Background(), n); err != nil {
				return err
			}
			s.watch.step()
		}
		return nil
	}
}

// group runs calls in one transaction as far as the directory allows it.
func (s *stress) group(ctx context.Context, leasing, snapshotting func(context.Context) error) error {
	if s.p.Transactions.Snapshots {
		return s.p.Transactions.Update(ctx, func(ctx context.Context) error {
			if err := leasing(ctx); err != nil {
				return err
			}
			return snapshotting(ctx)
		})
	}
	if err := s.p.Transactions.Update(ctx, leasing); err != nil {
		return err
	}
	return snapshotting(ctx)
}

func (s *stress) lease(id string) func(context.Context) error {
	return func(ctx context.Context) error { return addLease(ctx, s.p, id, id) }
}

func (s *stress) drop(ctx context.Context, id string) error {
	return s.p.LeaseManager.Delete(ctx, leases.Lease{ID: id})
}

// layer makes a layer as the manager does, checks that it is there, and lets go of it.
func (s *stress) layer(ctx context.Context, id string) error {
	active, sn := id+"-active", s.p.Snapshotter
	if err := s.group(ctx, s.lease(active), func(ctx context.Context) error { return sn.Prepare(ctx, active, "base") }); err != nil {
		return err
	}
	if _, err := sn.Update(ctx, snapshots.Info{Name: active, Labels: map[string]string{"a": "b"}}); err != nil {
		return fmt.Errorf("update of leased snapshot: %w", err)
	}
	// The new lease, then the commit, then the old lease goes: in one transaction where possible.
	if err := s.group(ctx, s.lease(id), func(ctx context.Context) error {
		if err := sn.Commit(ctx, id, active); err != nil {
			return err
		}
		return s.drop(ctx, active)
	}); err != nil {
		return err
	}
	// Parts as containerd and the snapshotter see them.
	if _, err := sn.Usage(ctx, id); err != nil {
		return fmt.Errorf("leased snapshot: %w", err)
	}
	if err := s.group(ctx, s.lease(id+"-child"), func(ctx context.Context) error { return sn.Prepare(ctx, id+"-child", id) }); err != nil {
		return fmt.Errorf("child of leased snapshot: %w", err)
	}
	return errors.Join(s.drop(ctx, id), s.drop(ctx, id+"-child"))
}

// view makes a view, looks at its data, and lets go of it. The calls are grouped or separate.
func (s *stress) view(ctx context.Context, id string, grouped bool) error {
	group := s.group
	if !grouped {
		group = func(ctx context.Context, leasing, snapshotting func(context.Context) error) error {
			if err := leasing(ctx); err != nil {
				return err
			}
			return snapshotting(ctx)
		}
	}
	var dir string
	if err := group(ctx, s.lease(id), func(ctx context.Context) error {
		m, err := s.p.Snapshotter.View(ctx, id, "base")
		if err != nil {
			return err
		}
		mounts, release, err := m.Mount()
		if err != nil {
			return err
		}
		dir = mounts[0].Source
		return release()
	}); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "base")); err != nil {
		return err
	}
	return s.drop(ctx, id)
}

// blob writes a leased blob, reads it, and lets go of it.
func (s *stress) blob(ctx context.Context, id string) error {
	if _, err := s.p.LeaseManager.Create(ctx, leases.WithID(id)); err != nil {
		return err
	}
	data := []byte(id)
	desc := ocispecs.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(leases.WithLease(ctx, id), s.p.ContentStore, id, bytes.NewReader(data), desc); err != nil {
		return err
	}
	if got, err := content.ReadBlob(ctx, s.p.ContentStore, desc); err != nil || !bytes.Equal(got, data) {
		return errors.Join(fmt.Errorf("leased blob: %q", got), err)
	}
	return s.drop(ctx, id)
}

// failing fails after everything has been done, and does it again.
func (s *stress) failing(ctx context.Context, id string) error {
	if !s.p.Transactions.Snapshots {
		return nil
	}
	do := func(fail error) error {
		return s.p.Transactions.Update(ctx, func(ctx context.Context) error {
			if err := s.lease(id)(ctx); err != nil {
				return err
			}
			if err := s.p.Snapshotter.Prepare(ctx, id, "base"); err != nil {
				return fmt.Errorf("prepare: %w", err)
			}
			return fail
		})
	}
	if err := do(errBoom); !errors.Is(err, errBoom) || errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("want the error of the group, got %w", err)
	}
	if err := do(nil); err != nil {
		return err
	}
	if _, err := s.p.Snapshotter.Stat(ctx, id); err != nil {
		return fmt.Errorf("leased snapshot: %w", err)
	}
	return s.drop(ctx, id)
}

// watchdog ends the test binary with the stacks of all goroutines if for a minute nobody got anywhere.
type watchdog struct{ steps atomic.Int64 }

func newWatchdog(t *testing.T) *watchdog {
	w := &watchdog{}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for last := int64(-1); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := w.steps.Load()
			if now == last {
				var stacks strings.Builder
				_ = pprof.Lookup("goroutine").WriteTo(&stacks, 2)
				panic("deadlock:\n" + stacks.String())
			}
			last = now
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
	return w
}

func (w *watchdog) step() { w.steps.Add(1) }
