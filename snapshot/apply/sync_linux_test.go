package apply

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// gatedDisk is a disk whose syncs wait to be let go.
type gatedDisk struct {
	mu      sync.Mutex
	syncs   int
	started chan struct{}
	proceed chan error
}

func newGatedDisk() *gatedDisk {
	return &gatedDisk{started: make(chan struct{}, 100), proceed: make(chan error)}
}

func (g *gatedDisk) open(id any) *disk {
	return &disk{id: id, syncfs: func(*os.File) error {
		g.mu.Lock()
		g.syncs++
		g.mu.Unlock()
		g.started <- struct{}{}
		return <-g.proceed
	}}
}

func (s *syncer) waiting(id any) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.disks[id]; q != nil {
		return q.users
	}
	return 0
}

func waitFor(t *testing.T, s *syncer, id any, users int) {
	t.Helper()
	for s.waiting(id) != users {
		require.NoError(t, t.Context().Err())
		runtime.Gosched()
	}
}

// TestSyncIsShared: who comes while a sync runs waits for the next one, and all of those share that (design 5).
func TestSyncIsShared(t *testing.T) {
	var s syncer
	g := newGatedDisk()
	errs := make(chan error, 100)
	start := func(n int) {
		for range n {
			go func() { errs <- s.sync(t.Context(), g.open(1)) }()
		}
	}
	start(1)
	<-g.started
	start(20)
	waitFor(t, &s, 1, 21)
	require.Empty(t, errs, "a sync that runs already is not theirs")
	g.proceed <- nil
	require.NoError(t, <-errs)
	<-g.started
	require.Empty(t, errs)
	g.proceed <- unix.EIO
	for range 20 {
		err := <-errs
		require.ErrorIs(t, err, unix.EIO, "all of them are told")
		require.True(t, errdefs.IsDataLoss(err), "%v", err)
	}
	require.Equal(t, 2, g.syncs)
	waitFor(t, &s, 1, 0)
	require.Empty(t, s.disks, "nothing is kept of a filesystem that nobody uses")
}

// TestSyncPerFilesystem: a filesystem that hangs holds nobody up on another one (fault 26).
func TestSyncPerFilesystem(t *testing.T) {
	var s syncer
	slow, quick := newGatedDisk(), newGatedDisk()
	errs := make(chan error, 1)
	go func() { errs <- s.sync(t.Context(), slow.open(1)) }()
	<-slow.started
	go func() { quick.proceed <- nil }()
	require.NoError(t, s.sync(t.Context(), quick.open(2)))
	slow.proceed <- nil
	require.NoError(t, <-errs)
}

// TestSyncCancelled: one that waits leaves with its context, even the first of its round, and the others are served.
func TestSyncCancelled(t *testing.T) {
	var s syncer
	g := newGatedDisk()
	errs, cancelled := make(chan error, 2), make(chan error, 1)
	go func() { errs <- s.sync(t.Context(), g.open(1)) }()
	<-g.started
	ctx, cancel := context.WithCancel(t.Context())
	go func() { cancelled <- s.sync(ctx, g.open(1)) }()
	waitFor(t, &s, 1, 2)
	go func() { errs <- s.sync(t.Context(), g.open(1)) }()
	waitFor(t, &s, 1, 3)
	cancel()
	require.ErrorIs(t, <-cancelled, context.Canceled)
	g.proceed <- nil
	require.NoError(t, <-errs)
	<-g.started
	g.proceed <- nil
	require.NoError(t, <-errs)
	require.Equal(t, 2, g.syncs)
}

// TestRealSync: the system call on a real filesystem, twice at a time.
func TestRealSync(t *testing.T) {
	var s syncer
	errs := make(chan error, 2)
	for range 2 {
		d, err := openDisk(t.TempDir())
		require.NoError(t, err)
		t.Cleanup(d.close)
		go func() { errs <- s.sync(t.Context(), d) }()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	_, err := openDisk(t.TempDir() + "/absent")
	require.ErrorIs(t, err, os.ErrNotExist)
}
