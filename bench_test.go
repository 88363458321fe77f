package cache_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/containerd"
	"github.com/layercache/cache/testutil/need"
)

// These are the single-side figures; bench/ puts BuildKit's beside them. Besides the time they report
//
//	txns/op   write transactions of all three bolt databases (rows, containerd's metadata, the
//	          snapshotter's), each of which is two fdatasync calls
//	calls/op  calls of the snapshotter and the lease manager
//	blobs/op  calls of the content store
type benchCache struct {
	cache.Manager
	txns, calls, blobs atomic.Int64
}

// openBench opens a cache on the parts that local.Open wires, all of them counted.
func openBench(b *testing.B, snapshotter string) *benchCache {
	b.Helper()
	quietWhile(b)
	dir := b.TempDir()
	parts, err := local.OpenParts(b.Context(), filepath.Join(dir, "cache"), local.Options{Snapshotter: snapshotter})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, parts.Close()) })
	rows, err := bolt.Open(filepath.Join(dir, "rows.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	require.NoError(b, err)

	c := &benchCache{}
	opt := parts.ManagerOpt()
	opt.MetadataStore = metadata.NewStoreWithDB(countedRows{rows, c})
	opt.Snapshotter = &countedSnapshotter{opt.Snapshotter, c}
	opt.LeaseManager = &countedLeases{opt.LeaseManager, c}
	opt.ContentStore = &countedContent{opt.ContentStore, c}
	tx := *opt.Transactions
	update := tx.Update
	tx.Update = func(ctx context.Context, fn func(context.Context) error) error {
		c.countWrite(ctx)
		return update(ctx, fn)
	}
	opt.Transactions = &tx
	c.Manager, err = cache.NewManager(opt)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, c.Close()) })
	return c
}

// quietWhile keeps the warnings that containerd's parts write when they are opened out of the
// benchmark's output, which benchstat could not read otherwise.
func quietWhile(b *testing.B) {
	b.Helper()
	before := log.GetLevel()
	require.NoError(b, log.SetLevel("error"))
	b.Cleanup(func() { require.NoError(b, log.SetLevel(before.String())) })
}

// countWrite counts a write to containerd's metadata, unless it joins a transaction.
func (c *benchCache) countWrite(ctx context.Context) {
	if _, joined := boltutil.Transaction(ctx); !joined {
		c.txns.Add(1)
	}
}

// reset forgets what the preparations cost, and the timer does so, too.
func (c *benchCache) reset(b *testing.B) {
	c.txns.Store(0)
	c.calls.Store(0)
	c.blobs.Store(0)
	b.ReportAllocs()
	b.ResetTimer()
}

// uncounted runs what an operation needs to be there first, without its time and its counts.
func (c *benchCache) uncounted(b *testing.B, prepare func()) {
	b.Helper()
	b.StopTimer()
	txns, calls, blobs := c.txns.Load(), c.calls.Load(), c.blobs.Load()
	prepare()
	c.txns.Store(txns)
	c.calls.Store(calls)
	c.blobs.Store(blobs)
	b.StartTimer()
}

func (c *benchCache) report(b *testing.B) {
	b.StopTimer()
	b.ReportMetric(float64(c.txns.Load())/float64(b.N), "txns/op")
	b.ReportMetric(float64(c.calls.Load())/float64(b.N), "calls/op")
	b.ReportMetric(float64(c.blobs.Load())/float64(b.N), "blobs/op")
	require.Zero(b, c.Stats().Refs, "live refs")
}

type countedRows struct {
	*bolt.DB
	c *benchCache
}

func (d countedRows) Update(fn func(*bolt.Tx) error) error {
	d.c.txns.Add(1)
	return d.DB.Update(fn)
}

type countedSnapshotter struct {
	snapshot.Snapshotter
	c *benchCache
}

// write counts a write, which is one to the snapshotter's own database as well.
func (s *countedSnapshotter) write(ctx context.Context) {
	s.c.calls.Add(1)
	s.c.txns.Add(1)
	s.c.countWrite(ctx)
}

func (s *countedSnapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	s.write(ctx)
	return s.Snapshotter.Prepare(ctx, key, parent, opts...)
}

func (s *countedSnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	s.write(ctx)
	return s.Snapshotter.View(ctx, key, parent, opts...)
}

func (s *countedSnapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	s.write(ctx)
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

func (s *countedSnapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	s.write(ctx)
	return s.Snapshotter.Update(ctx, info, fieldpaths...)
}

func (s *countedSnapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	s.c.calls.Add(1)
	return s.Snapshotter.Stat(ctx, key)
}

func (s *countedSnapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	s.c.calls.Add(1)
	return s.Snapshotter.Usage(ctx, key)
}

func (s *countedSnapshotter) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	s.c.calls.Add(1)
	return s.Snapshotter.Mounts(ctx, key)
}

type countedLeases struct {
	leases.Manager
	c *benchCache
}

func (l *countedLeases) write(ctx context.Context) {
	l.c.calls.Add(1)
	l.c.countWrite(ctx)
}

func (l *countedLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	l.write(ctx)
	return l.Manager.Create(ctx, opts...)
}

func (l *countedLeases) Delete(ctx context.Context, lease leases.Lease, opts ...leases.DeleteOpt) error {
	l.write(ctx)
	return l.Manager.Delete(ctx, lease, opts...)
}

func (l *countedLeases) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	l.c.calls.Add(1)
	return l.Manager.List(ctx, filters...)
}

func (l *countedLeases) WalkLeases(ctx context.Context, fn func(id string, labels map[string]string) error) error {
	l.c.calls.Add(1)
	lm, ok := l.Manager.(*containerd.LeaseManager)
	if !ok {
		return fmt.Errorf("%T has no WalkLeases", l.Manager)
	}
	return lm.WalkLeases(ctx, fn)
}

func (l *countedLeases) AddResource(ctx context.Context, lease leases.Lease, r leases.Resource) error {
	l.write(ctx)
	return l.Manager.AddResource(ctx, lease, r)
}

func (l *countedLeases) DeleteResource(ctx context.Context, lease leases.Lease, r leases.Resource) error {
	l.write(ctx)
	return l.Manager.DeleteResource(ctx, lease, r)
}

// newLayer makes a record that stays and returns its ID.
func (c *benchCache) newLayer(ctx context.Context) (string, error) {
	mut, err := c.New(ctx, nil, nil, cache.CachePolicyRetain)
	if err != nil {
		return "", err
	}
	imm, err := mut.Commit(ctx)
	if err != nil {
		return "", err
	}
	if err := imm.Finalize(ctx); err != nil {
		return "", err
	}
	return imm.ID(), imm.Release(ctx)
}

func (c *benchCache) getRelease(ctx context.Context, id string) error {
	ref, err := c.Get(ctx, id, nil)
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

// BenchmarkGetRelease is row 1 of the table in docs/benchmarks.md: an idle record.
func BenchmarkGetRelease(b *testing.B) {
	c := openBench(b, local.Native)
	ctx := b.Context()
	id, err := c.newLayer(ctx)
	require.NoError(b, err)
	c.reset(b)
	for b.Loop() {
		if err := c.getRelease(ctx, id); err != nil {
			b.Fatal(err)
		}
	}
	c.report(b)
}

// BenchmarkGetReleaseParallel is row 2, with fewer records.
func BenchmarkGetReleaseParallel(b *testing.B) {
	c := openBench(b, local.Native)
	ctx := b.Context()
	ids := make([]string, 64)
	for i := range ids {
		var err error
		ids[i], err = c.newLayer(ctx)
		require.NoError(b, err)
	}
	var first atomic.Int64
	const goroutines = 8
	b.SetParallelism(max(goroutines/runtime.GOMAXPROCS(0), 1))
	c.reset(b)
	b.RunParallel(func(pb *testing.PB) {
		const apart = 7 // goroutines start at different records
		for i := int(first.Add(apart)); pb.Next(); i++ {
			if err := c.getRelease(ctx, ids[i%len(ids)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
	c.report(b)
}

// BenchmarkNewCommitFinalizeRelease is row 3, and row 4 with as many goroutines as GOMAXPROCS.
func BenchmarkNewCommitFinalizeRelease(b *testing.B) {
	for _, snapshotter := range []string{local.Overlayfs, local.Native} {
		b.Run("snapshotter="+snapshotter+"/sequential", func(b *testing.B) {
			c := openCommitBench(b, snapshotter)
			for b.Loop() {
				if _, err := c.newLayer(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			c.report(b)
		})
		b.Run("snapshotter="+snapshotter+"/parallel", func(b *testing.B) {
			c := openCommitBench(b, snapshotter)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := c.newLayer(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
			c.report(b)
		})
	}
}

func openCommitBench(b *testing.B, snapshotter string) *benchCache {
	b.Helper()
	if snapshotter == local.Overlayfs {
		need.Overlay(b)
	}
	c := openBench(b, snapshotter)
	c.reset(b)
	return c
}
