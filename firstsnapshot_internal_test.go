package cache

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// numbering is a snapshotter that keeps directories as containerd's do, in a process after one that was killed: the next number has a
// directory. What takes it away takes a second, in which others may work.
type numbering struct {
	snapshot.Snapshotter
	mu   sync.Mutex
	last int
	dirs map[int]string // by number, who has it; empty for nobody
	// tries counts calls, and fails are errors for the next of them.
	tries int
	fails []error
}

func (s *numbering) Prepare(_ context.Context, key, _ string, _ ...snapshots.Opt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	if len(s.fails) > 0 {
		err := s.fails[0]
		s.fails = s.fails[1:]
		return err
	}
	number := s.last + 1
	if _, there := s.dirs[number]; there {
		s.mu.Unlock()
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble, where it is over as soon as nobody else can go on
		s.mu.Lock()
		delete(s.dirs, number)
		return errors.Wrap(&os.LinkError{Op: "rename", Old: "new-1", New: fmt.Sprint(number), Err: syscall.EEXIST}, "failed to rename")
	}
	s.last, s.dirs[number] = number, key
	return nil
}

func (s *numbering) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	return nil, s.Prepare(ctx, key, parent, opts...)
}

// collect removes directories that nobody has, as it saw them when it began.
func (s *numbering) collect(context.Context) (gc.Stats, error) {
	var unused []int
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, key := range s.dirs {
		if key == "" {
			unused = append(unused, number)
		}
	}
	s.mu.Unlock()
	time.Sleep(2 * time.Second) //nolint:forbidigo // in a bubble
	s.mu.Lock()
	for _, number := range unused {
		delete(s.dirs, number)
	}
	return nil, nil
}

// TestFirstSnapshot: a directory that a killed process left is no failure of the first snapshots, and none of them loses its own to those who
// take that one away.
func TestFirstSnapshot(t *testing.T) { // fault 29
	for _, collectFirst := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			back := &numbering{dirs: map[int]string{1: ""}}
			opt := ManagerOpt{Snapshotter: back, GarbageCollect: back.collect}
			guardFirst(&opt)
			var work sync.WaitGroup
			if collectFirst {
				work.Go(func() {
					if _, err := opt.GarbageCollect(t.Context()); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			for i := range 8 {
				work.Go(func() {
					var err error
					if i%2 == 0 {
						err = opt.Snapshotter.Prepare(t.Context(), fmt.Sprint(i), "")
					} else {
						_, err = opt.Snapshotter.View(t.Context(), fmt.Sprint(i), "")
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			work.Wait()
			require.Len(t, back.dirs, 8)
			owners := map[string]bool{}
			for _, key := range back.dirs {
				owners[key] = true
			}
			require.Len(t, owners, 8)
		})
	}
}

// TestFirstSnapshotFails: no other error leads to a second try, nor does this one later on, and who waits may give up.
func TestFirstSnapshotFails(t *testing.T) { // fault 26, fault 29
	exists := &os.LinkError{Op: "rename", Err: syscall.ENOTEMPTY}
	full := errors.Wrap(syscall.ENOSPC, "full")
	back := &numbering{dirs: map[int]string{}, fails: []error{full, exists, exists}}
	opt := ManagerOpt{Snapshotter: back}
	guardFirst(&opt)
	prepare := func(ctx context.Context) error { return opt.Snapshotter.Prepare(ctx, "key", "") }
	require.ErrorIs(t, prepare(t.Context()), syscall.ENOSPC)
	require.Equal(t, 1, back.tries)
	require.ErrorIs(t, prepare(t.Context()), syscall.ENOTEMPTY)
	require.Equal(t, 3, back.tries)
	require.NoError(t, prepare(t.Context()))
	back.fails = []error{exists}
	require.ErrorIs(t, prepare(t.Context()), syscall.ENOTEMPTY)
	require.Equal(t, 5, back.tries)

	opt = ManagerOpt{Snapshotter: back}
	guardFirst(&opt)
	back.mu.Lock()
	done := make(chan error)
	go func() { done <- prepare(t.Context()) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first, ok := opt.Snapshotter.(*firstSnapshot)
	require.True(t, ok)
	require.Eventually(t, func() bool { return len(first.turn) == 1 }, time.Minute, time.Millisecond)
	require.ErrorIs(t, prepare(ctx), context.Canceled)
	back.mu.Unlock()
	require.NoError(t, <-done)

	shared := ManagerOpt{Snapshotter: back, Transactions: &Transactions{}}
	guardFirst(&shared)
	require.Same(t, back, shared.Snapshotter)
}

// TestFirstSnapshotElsewhere: nobody waits for others once it is known that the backend is in another process, by an error that is not the
// end of the caller's own context.
func TestFirstSnapshotElsewhere(t *testing.T) { // fault 26
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	exists := &os.LinkError{Op: "rename", Err: syscall.ENOTEMPTY}
	for _, c := range []struct {
		ctx   context.Context
		err   error
		tries int
	}{
		{t.Context(), errdefs.ErrUnavailable, 1},
		{t.Context(), context.DeadlineExceeded, 1},
		{late, context.DeadlineExceeded, 2},
		{t.Context(), syscall.ENOSPC, 2},
	} {
		back := &numbering{dirs: map[int]string{}, fails: []error{errors.Wrap(c.err, "failed")}}
		opt := ManagerOpt{Snapshotter: back}
		guardFirst(&opt)
		require.ErrorIs(t, opt.Snapshotter.Prepare(c.ctx, "key", ""), c.err)
		back.tries, back.fails = 0, []error{exists}
		_ = opt.Snapshotter.Prepare(t.Context(), "key", "")
		require.Equal(t, c.tries, back.tries, "tries after %v", c.err)
	}
}

// knowing is a snapshotter that knows labels.
type knowing struct{ snapshot.Snapshotter }

func (knowing) Name() string { return "knowing" }

func (knowing) KnownLabels(key string) (map[string]string, bool) {
	return map[string]string{"buildkit.mergeUsageSize": "42"}, key == "known"
}

// TestFirstSnapshotKnowsLabels: what a snapshotter knows is not hidden, so that Usage need not ask.
func TestFirstSnapshotKnowsLabels(t *testing.T) {
	opt := ManagerOpt{Snapshotter: knowing{}}
	guardFirst(&opt)
	merger := snapshot.NewMergeSnapshotterWith(t.Context(), opt.Snapshotter, nil, snapshot.MergeOptions{Capabilities: &snapshot.Capabilities{}})
	u, err := merger.Usage(t.Context(), "known")
	require.NoError(t, err) // with any call to the snapshotter it panics
	require.EqualValues(t, 42, u.Size)
	k, ok := opt.Snapshotter.(snapshot.LabelKnower)
	require.True(t, ok)
	_, known := k.KnownLabels("another")
	require.False(t, known)

	opt = ManagerOpt{Snapshotter: &numbering{}}
	guardFirst(&opt)
	k, ok = opt.Snapshotter.(snapshot.LabelKnower)
	require.True(t, ok)
	_, known = k.KnownLabels("known")
	require.False(t, known)
}
