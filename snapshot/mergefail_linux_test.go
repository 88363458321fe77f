package snapshot_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/containerd"
	"github.com/layercache/cache/testutil/tree"
)

// leased is a merge snapshotter in a namespace, where nothing can be removed but by deleting leases.
type leased struct {
	snapshot.MergeSnapshotter
	ctx    context.Context
	leases leases.Manager
	db     *metadata.DB
	faults *faulty
}

func openLeased(t *testing.T, name string) *leased {
	t.Helper()
	var backend snapshots.Snapshotter
	if name == "overlayfs" {
		backend = openOverlay(t)
	} else {
		backend = openNative(t)
	}
	bdb, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bdb.Close()) })
	l := &leased{ctx: namespaces.WithNamespace(t.Context(), "test")}
	l.db = metadata.NewDB(bdb, nil, map[string]snapshots.Snapshotter{name: backend})
	l.leases = containerd.NewLeaseManager(metadata.NewLeaseManager(l.db), "test")
	l.faults = &faulty{Snapshotter: containerd.NewSnapshotter(name, l.db.Snapshotter(name), "test", nil)}
	l.MergeSnapshotter = snapshot.NewMergeSnapshotter(l.ctx, l.faults, &faultyLeases{l.leases, l.faults})
	return l
}

// lease makes a lease of the caller's.
func (l *leased) lease(t *testing.T, id string) (leases.Lease, context.Context) {
	t.Helper()
	lease, err := l.leases.Create(l.ctx, leases.WithID(id))
	require.NoError(t, err)
	return lease, leases.WithLease(l.ctx, id)
}

// layer makes the committed snapshot name.
func (l *leased) layer(ctx context.Context, t *testing.T, name, parent string, entries ...tree.Entry) {
	t.Helper()
	require.NoError(t, l.Prepare(ctx, name+"-active", parent))
	m, err := l.Mounts(ctx, name+"-active")
	require.NoError(t, err)
	lm := snapshot.LocalMounter(m)
	root, err := lm.Mount()
	require.NoError(t, err)
	require.NoError(t, tree.Write(root, entries...))
	require.NoError(t, lm.Unmount())
	require.NoError(t, l.Commit(ctx, name, name+"-active"))
}

// left lists the snapshots after a garbage collection.
func (l *leased) left(t *testing.T) (names []string) {
	t.Helper()
	_, err := l.db.GarbageCollect(l.ctx)
	require.NoError(t, err)
	require.NoError(t, l.Walk(l.ctx, func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}))
	return names
}

// leaseIDs lists the leases.
func (l *leased) leaseIDs(t *testing.T) (ids []string) {
	t.Helper()
	list, err := l.leases.List(l.ctx)
	require.NoError(t, err)
	for _, lease := range list {
		ids = append(ids, lease.ID)
	}
	return ids
}

var (
	errInjected = errdefs.ErrUnavailable
	bothNames   = []string{"native", "overlayfs"}
)

// faulty fails the n-th call of a Snapshotter, its mounts and its lease manager, counted from 1.
type faulty struct {
	snapshot.Snapshotter
	at    int
	calls int
	// during, if not nil, is called before each call that is counted.
	during func(call string)
	// mounted counts mounts that have not been released.
	mounted atomic.Int32
	most    int32
}

func (f *faulty) arm(at int) { f.at, f.calls = at, 0 }

func (f *faulty) hit(call string) error {
	f.calls++
	if f.during != nil {
		f.during(call)
	}
	if f.calls == f.at {
		return fmt.Errorf("%s: %w", call, errInjected)
	}
	return nil
}

func (f *faulty) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	if err := f.hit("Stat"); err != nil {
		return snapshots.Info{}, err
	}
	return f.Snapshotter.Stat(ctx, key)
}

func (f *faulty) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	if err := f.hit("Prepare"); err != nil {
		return err
	}
	return f.Snapshotter.Prepare(ctx, key, parent, opts...)
}

func (f *faulty) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	if err := f.hit("Mounts"); err != nil {
		return nil, err
	}
	m, err := f.Snapshotter.Mounts(ctx, key)
	return &faultyMounts{m, f}, err
}

func (f *faulty) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	if err := f.hit("View"); err != nil {
		return nil, err
	}
	m, err := f.Snapshotter.View(ctx, key, parent, opts...)
	return &faultyMounts{m, f}, err
}

func (f *faulty) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := f.hit("Commit"); err != nil {
		return err
	}
	return f.Snapshotter.Commit(ctx, name, key, opts...)
}

type faultyMounts struct {
	snapshot.Mountable
	f *faulty
}

func (m *faultyMounts) Mount() ([]mount.Mount, func() error, error) {
	if err := m.f.hit("Mount"); err != nil {
		return nil, nil, err
	}
	mounts, release, err := m.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	m.f.most = max(m.f.most, m.f.mounted.Add(1))
	return mounts, func() error {
		m.f.mounted.Add(-1)
		if err := m.f.hit("release"); err != nil {
			_ = release()
			return err
		}
		return release()
	}, nil
}

type faultyLeases struct {
	leases.Manager
	f *faulty
}

func (m *faultyLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	if err := m.f.hit("lease"); err != nil {
		return leases.Lease{}, err
	}
	return m.Manager.Create(ctx, opts...)
}

// TestEveryCallFails: whichever backend call fails, its error is returned and neither a view, nor the work snapshot, nor a lease, nor a mount
// stays, under the caller's lease as under a temporary one (spec MRG-4, DIF-2, quirk Q58).
func TestEveryCallFails(t *testing.T) {
	for _, name := range bothNames {
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s leased=%v", name, own), func(t *testing.T) {
				l := openLeased(t, name)
				_, keep := l.lease(t, "keep")
				l.layer(keep, t, "a", "", tree.File("a", "a"), tree.File("d/x", "x"))
				l.layer(keep, t, "b", "a", tree.File("d/y", "y"))
				l.layer(keep, t, "c", "", tree.File("c", "c"))
				diffs := []snapshot.Diff{{Upper: "c"}, {Lower: "a", Upper: "b"}, {Lower: "c", Upper: "b"}, {Lower: "c"}}
				before := l.left(t)
				ctx := l.ctx
				want := []string{"keep"}
				if own {
					_, ctx = l.lease(t, "mine")
					want = append(want, "mine")
				}
				failed := 0
				for at := 1; ; at++ {
					l.faults.arm(at)
					err := l.Merge(ctx, "merged", diffs)
					l.faults.arm(0)
					require.Zero(t, l.faults.mounted.Load(), "call %d", at)
					if err == nil {
						break
					}
					failed++
					require.ErrorIs(t, err, errInjected, "call %d", at)
					require.ElementsMatch(t, want, l.leaseIDs(t), "call %d", at)
					require.ElementsMatch(t, before, l.left(t), "call %d", at)
				}
				require.Greater(t, failed, 15)
				require.Equal(t, want, l.leaseIDs(t))
				if own { // it protects the result, and nothing else
					require.ElementsMatch(t, append(before, "merged"), l.left(t))
				} else {
					require.ElementsMatch(t, before, l.left(t))
				}
			})
		}
	}
}

// TestCollectedMeanwhile: a garbage collection between any two calls takes nothing away that a merge needs (spec MRG-4).
func TestCollectedMeanwhile(t *testing.T) {
	for _, name := range bothNames {
		t.Run(name, func(t *testing.T) {
			l := openLeased(t, name)
			_, keep := l.lease(t, "keep")
			l.layer(keep, t, "a", "", tree.File("a", "a"))
			l.layer(keep, t, "b", "a", tree.File("b", "b"))
			l.faults.during = func(string) {
				_, err := l.db.GarbageCollect(l.ctx)
				require.NoError(t, err)
			}
			require.NoError(t, l.Merge(l.ctx, "lost", []snapshot.Diff{{Lower: "a", Upper: "b"}, {Upper: "a"}}))
			require.NoError(t, l.Merge(keep, "merged", []snapshot.Diff{{Lower: "a", Upper: "b"}, {Upper: "a"}}))
			require.ElementsMatch(t, []string{"a", "b", "merged"}, l.left(t))
		})
	}
}

// TestMountsPerDiff: the mounts of a diff are released before the next one is begun, so the target's and two more are there at most (quirk Q57, spec DIF-2).
func TestMountsPerDiff(t *testing.T) {
	l := openLeased(t, "native")
	_, keep := l.lease(t, "keep")
	var diffs []snapshot.Diff
	for i, parent := 0, ""; i < 6; i++ {
		name := fmt.Sprint("l", i)
		l.layer(keep, t, name, parent, tree.File(name, name))
		diffs = append(diffs, snapshot.Diff{Lower: parent, Upper: name})
		parent = name
	}
	require.NoError(t, l.Merge(keep, "merged", diffs))
	require.Zero(t, l.faults.mounted.Load())
	require.EqualValues(t, 3, l.faults.most)
}

// TestMergeOptions: options of the caller's are applied to the commit, beside the labels of usage (quirk Q55, spec MRG-4).
func TestMergeOptions(t *testing.T) {
	m := newMerger(t, "native", openNative(t), nil)
	m.layer(t, "a", "", tree.File("a", "a"))
	opts := make([]snapshots.Opt, 1, 8)
	opts[0] = snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "x", "mine": "1"})
	require.NoError(t, m.Merge(m.ctx, "merged", []snapshot.Diff{{Upper: "a"}}, opts...))
	info, err := m.Stat(m.ctx, "merged")
	require.NoError(t, err)
	require.Equal(t, "1", info.Labels["mine"])
	require.Contains(t, info.Labels, "buildkit.mergeUsageSize")
	require.Nil(t, opts[:2][1], "the caller's slice is his")
}

// TestMergeErrors: what cannot be merged is an error of a category, and leaves nothing (spec MRG-4).
func TestMergeErrors(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("a", "a"))
		require.True(t, errdefs.IsInvalidArgument(m.Merge(m.ctx, "", nil)))
		require.True(t, errdefs.IsAlreadyExists(m.Merge(m.ctx, "a", []snapshot.Diff{{Upper: "a"}})))
		for _, diffs := range [][]snapshot.Diff{{{Upper: "none"}}, {{Lower: "none", Upper: "a"}}, {{Upper: "a"}, {Lower: "none"}}} {
			err := m.Merge(m.ctx, "merged", diffs)
			require.True(t, errdefs.IsNotFound(err), "%v", err)
			require.ErrorContains(t, err, "none")
		}
		n := 0
		require.NoError(t, m.Walk(m.ctx, func(context.Context, snapshots.Info) error { n++; return nil }))
		require.Equal(t, 1, n)
	})
}

// TestCancelMerge: a merge ends with its context, between two files, and leaves nothing (spec OVL-6, MRG-4).
func TestCancelMerge(t *testing.T) {
	l := openLeased(t, "native")
	_, keep := l.lease(t, "keep")
	var entries []tree.Entry
	for i := range 2000 {
		entries = append(entries, tree.File(fmt.Sprintf("d%d/f%d", i%10, i), ""))
	}
	l.layer(keep, t, "a", "", entries...)
	before := l.left(t)
	ctx, cancel := context.WithCancel(l.ctx)
	l.faults.during = func(call string) {
		if call == "Mount" && l.faults.mounted.Load() == 1 { // the target is mounted, the first tree is about to be
			cancel()
		}
	}
	err := l.Merge(ctx, "merged", []snapshot.Diff{{Upper: "a"}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, before, l.left(t))
	require.Equal(t, []string{"keep"}, l.leaseIDs(t))
	require.Zero(t, l.faults.mounted.Load())
}

// TestActiveSides: active snapshots are read by their mounts, and are not touched (spec DIF-1).
func TestActiveSides(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("a", "a"))
		require.NoError(t, m.Prepare(m.ctx, "active", "a"))
		m.edit(t, "active", func(root string) {
			require.NoError(t, tree.Write(root, tree.File("b", "b")))
			require.NoError(t, os.Remove(filepath.Join(root, "a")))
		})
		m.layer(t, "c", "", tree.File("a", "c"), tree.File("c", "c"))
		m.merge(t, "merged", snapshot.Diff{Upper: "c"}, snapshot.Diff{Lower: "a", Upper: "active"})
		require.ElementsMatch(t, []string{"b", "c"}, paths(m.read(t, "merged")))
		info, err := m.Stat(m.ctx, "active")
		require.NoError(t, err)
		require.Equal(t, snapshots.KindActive, info.Kind)
	})
}
