package local

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
)

// queued tells how many callers wait for a transaction.
func (w *waiting) queued() int {
	w.Lock()
	defer w.Unlock()
	return len(w.callers)
}

func waitFor(t *testing.T, p *Parts, callers int) {
	t.Helper()
	require.Eventually(t, func() bool { return p.tx.waiting.queued() == callers }, time.Minute, 100*time.Microsecond)
}

// atOnce calls fn on n goroutines, which all wait for the turn before the first gets it, and waits for their ends.
func atOnce(t *testing.T, p *Parts, n int, fn func(i int)) {
	t.Helper()
	leave, err := p.tx.enter(t.Context())
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	waitFor(t, p, n)
	leave()
	wg.Wait()
	require.Zero(t, p.tx.waiting.queued())
}

// leaseAndSnapshot is what New does in a transaction, where snapshots take part in it.
func leaseAndSnapshot(ctx context.Context, p *Parts, key, parent string) error {
	if err := addLease(ctx, p, key, key); err != nil || !p.Transactions.Snapshots {
		return err
	}
	return p.Snapshotter.Prepare(ctx, key, parent)
}

func hasLease(t *testing.T, p *Parts, id string) bool {
	t.Helper()
	_, err := p.LeaseManager.ListResources(t.Context(), leases.Lease{ID: id})
	if err != nil {
		require.ErrorIs(t, err, errdefs.ErrNotFound)
	}
	return err == nil
}

// Callers that wait for the turn at the same time are committed together, up to a bound, and each returns when that is
// done. bench row 4
func TestCallersShareTransaction(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		for callers, want := range map[int]int{8: 1, maxGroup: 1, maxGroup + 1: 2} {
			p := openParts(t, memoryDir(t), opts)
			before := commits(t, p.raw)
			errs := make([]error, callers)
			atOnce(t, p, callers, func(i int) {
				key := fmt.Sprint("s", i)
				errs[i] = p.Transactions.Update(context.Background(), func(ctx context.Context) error {
					return leaseAndSnapshot(ctx, p, key, "")
				})
				if errs[i] == nil {
					errs[i] = second(p.LeaseManager.ListResources(context.Background(), leases.Lease{ID: key}))
				}
			})
			require.Equal(t, make([]error, callers), errs)
			require.Equal(t, want, commits(t, p.raw)-before, "%d callers", callers)
			if p.Transactions.Snapshots {
				require.Len(t, snapshotDirs(t, p), callers)
			}
			require.NoError(t, p.Close())
		}
	})
}

// What eight goroutines write when they make records is written once by the backend. bench row 4
func TestManagersShareTransaction(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		opts.NoBackgroundGC = true
		c := openCache(t, t.TempDir(), opts)
		const goroutines = 8
		before := commits(t, c.Parts.raw)
		refs := make([]cache.MutableRef, goroutines)
		errs := make([]error, goroutines)
		atOnce(t, c.Parts, goroutines, func(i int) { refs[i], errs[i] = c.New(context.Background(), nil, nil) })
		require.Equal(t, make([]error, goroutines), errs)
		want := 1
		if !c.Parts.Transactions.Snapshots {
			want += 2 * goroutines // what containerd does for each Prepare
		}
		require.LessOrEqual(t, commits(t, c.Parts.raw)-before, want)
		atOnce(t, c.Parts, goroutines, func(i int) { errs[i] = refs[i].Release(context.Background()) })
		require.Equal(t, make([]error, goroutines), errs)
		require.Zero(t, c.Stats().Records)
	})
}

// A part that fails, or panics, fails alone: the others are taken back and done again, so that all of them are there, and
// nothing of the one that failed is.
func TestFailureInGroup(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		for name, fail := range map[string]func() error{
			"error": func() error { return errBoom },
			"panic": func() error { panic("oops") },
		} {
			t.Run(name, func(t *testing.T) {
				p := openParts(t, memoryDir(t), opts)
				newLayer(t, p, "base", "")
				const callers, failing = 8, 4 // the fourth to have its turn
				var order, bad atomic.Int32
				var runs [callers]atomic.Int32
				bad.Store(-1)
				call := func(i int) (err error) {
					defer func() {
						if v := recover(); v != nil {
							err = fmt.Errorf("%v: %w", v, errBoom)
						}
					}()
					return p.Transactions.Update(context.Background(), func(ctx context.Context) error {
						runs[i].Add(1)
						if order.Add(1) == failing {
							bad.Store(int32(i))
						}
						if err := leaseAndSnapshot(ctx, p, fmt.Sprint("s", i), "base"); err != nil {
							return err
						}
						if bad.Load() == int32(i) {
							return fail()
						}
						return nil
					})
				}
				var errs [callers]error
				atOnce(t, p, callers, func(i int) { errs[i] = call(i) })
				for i := range callers {
					key := fmt.Sprint("s", i)
					require.LessOrEqual(t, runs[i].Load(), int32(2))
					_, err := p.Snapshotter.Stat(t.Context(), key)
					if int32(i) == bad.Load() {
						require.ErrorIs(t, errs[i], errBoom)
						require.ErrorIs(t, err, errdefs.ErrNotFound)
						require.False(t, hasLease(t, p, key))
						continue
					}
					require.NoError(t, errs[i])
					require.NoError(t, err)
					require.True(t, hasLease(t, p, key))
					writeFile(t, p, key, key)
				}
				require.Greater(t, order.Load(), int32(callers), "some ran again")
				_, err := p.GarbageCollect(t.Context())
				require.NoError(t, err)
				require.Len(t, names(t, guardOf(t, p)), callers)
				require.Len(t, snapshotDirs(t, p), callers)
			})
		}
	})
}

// inGroup runs lead in a transaction and then, in the same one, member, which has been waiting since. It returns their errors.
func inGroup(t *testing.T, p *Parts, lead, member func(context.Context) error) (leads, members error) {
	t.Helper()
	var once sync.Once
	done := make(chan error, 1)
	leads = p.Transactions.Update(t.Context(), func(ctx context.Context) error {
		once.Do(func() {
			go func() { done <- p.Transactions.Update(context.Background(), member) }()
			waitFor(t, p, 1)
		})
		return lead(ctx)
	})
	return leads, <-done
}

// A Commit is taken back with what others spoiled, and done again; a child of what was committed in the same
// transaction goes before it.
func TestCommitInSpoiledGroup(t *testing.T) {
	needOverlayfs(t)
	p := openParts(t, t.TempDir(), Options{Snapshotter: Overlayfs})
	require.NoError(t, addLease(t.Context(), p, "l", "top"))
	require.NoError(t, p.LeaseManager.AddResource(t.Context(), leases.Lease{ID: "l"}, snapshotResource(p, "active")))
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), "active", ""))
	writeFile(t, p, "active", "precious")
	commits, children := 0, 0
	leads, members := inGroup(t, p, func(ctx context.Context) error {
		commits++
		return p.Snapshotter.Commit(ctx, "top", "active")
	}, func(ctx context.Context) error {
		if children++; children == 1 { // later it may come before the other
			if err := leaseAndSnapshot(ctx, p, "child", "top"); err != nil {
				return err
			}
		}
		return errBoom
	})
	require.NoError(t, leads)
	require.Same(t, errBoom, members)
	require.Equal(t, []int{2, 2}, []int{commits, children})
	require.Equal(t, []string{"precious"}, layerFiles(t, p, "top"))
	_, err := p.Snapshotter.Stat(t.Context(), "child")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, leaseAndSnapshot(t.Context(), p, "child", "top"))
}

// A Commit that cannot be taken back is not put at others' mercy: nobody has a part in the transaction after it, and if it is what fails,
// it does not run again.
func TestIrreversibleCommitEndsGroup(t *testing.T) {
	p := openParts(t, t.TempDir(), quick)
	for _, key := range []string{"a", "b"} {
		require.NoError(t, addLease(t.Context(), p, key, key))
		require.NoError(t, p.Snapshotter.Prepare(t.Context(), key, ""))
		writeFile(t, p, key, key)
	}
	commits := 0
	leads, members := inGroup(t, p, func(ctx context.Context) error {
		commits++
		return p.Snapshotter.Commit(ctx, "top", "a")
	}, func(context.Context) error { return errBoom })
	require.NoError(t, leads)
	require.Same(t, errBoom, members)
	require.Equal(t, 1, commits)
	_, err := p.Snapshotter.Stat(t.Context(), "top")
	require.NoError(t, err)

	leads, members = inGroup(t, p, func(ctx context.Context) error { return addLease(ctx, p, "l", "l") }, func(ctx context.Context) error {
		commits++
		if err := p.Snapshotter.Commit(ctx, "other", "b"); err != nil {
			return err
		}
		return errBoom
	})
	require.NoError(t, leads)
	require.Same(t, errBoom, members)
	require.Equal(t, 2, commits)
	require.True(t, hasLease(t, p, "l"))
}

// What was done before it was spoiled is not done again for a caller who has gone meanwhile, and nothing of it stays.
func TestCancelledInSpoiledGroup(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		ctx, cancel := context.WithCancel(t.Context())
		inside, spoiled := make(chan struct{}), make(chan error, 1)
		go func() {
			<-inside
			spoiled <- p.Transactions.Update(context.Background(), func(context.Context) error {
				cancel()
				return errBoom
			})
		}()
		err := p.Transactions.Update(ctx, func(ctx context.Context) error {
			close(inside) // panics if it runs again
			waitFor(t, p, 1)
			return leaseAndSnapshot(ctx, p, "s", "")
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Same(t, errBoom, <-spoiled)
		require.False(t, hasLease(t, p, "s"))
		require.NoError(t, leaseAndSnapshot(t.Context(), p, "s", ""))
	})
}

// Who waits leaves when his context ends, and does not come to be called. fault 26
func TestCancelledWaiterLeavesGroup(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	leave, err := p.tx.enter(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		left <- p.Transactions.Update(ctx, func(context.Context) error {
			t.Error("must not run")
			return nil
		})
	}()
	waitFor(t, p, 1)
	stays := make(chan error, 1)
	go func() {
		stays <- p.Transactions.Update(context.Background(), func(ctx context.Context) error { return addLease(ctx, p, "l", "s") })
	}()
	waitFor(t, p, 2)
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	waitFor(t, p, 1)
	leave()
	require.NoError(t, <-stays)
	require.True(t, hasLease(t, p, "l"))
}

// endsWhenAsked is a context that ends when somebody waits for its end.
type endsWhenAsked struct {
	context.Context
	asked func()
	ended atomic.Bool
}

func (c *endsWhenAsked) Done() <-chan struct{} {
	if !c.ended.Swap(true) {
		c.asked()
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

func (c *endsWhenAsked) Err() error {
	if c.ended.Load() {
		return context.Canceled
	}
	return nil
}

// Who is invited at the moment when his context ends declines, and the leader goes on. fault 26
func TestInvitedDeclines(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	leave, err := p.tx.enter(t.Context())
	require.NoError(t, err)
	defer leave()
	picked := make(chan *caller, 1)
	left := make(chan error, 1)
	go func() {
		ctx := &endsWhenAsked{Context: context.Background(), asked: func() { picked <- p.tx.waiting.next() }}
		left <- p.Transactions.Update(ctx, func(context.Context) error {
			t.Error("must not run")
			return nil
		})
	}()
	c := <-picked
	require.NotNil(t, c)
	var others waiting
	others.callers = []*caller{c}
	g := &group{ran: make(chan outcome), log: &undoLog{}}
	require.NoError(t, g.invite(&others, maxGroup))
	require.ErrorIs(t, <-left, context.Canceled)
}
