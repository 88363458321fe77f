package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/fixture"
	"github.com/layercache/cache/usage"
)

// benchRecords is how many records the benchmarks of whole caches have, in chains of benchChain.
const benchRecords = 10_000

func manyRecords() fixture.Spec {
	return fixture.Spec{Snapshotter: local.Native, Records: benchRecords, Chain: benchChain, SizesKnown: true, UsesDiffer: true}
}

// makeMany makes a directory of many records, which benchmarks that change it copy for each operation.
func makeMany(b *testing.B, spec fixture.Spec) (dir string) {
	b.Helper()
	quietWhile(b)
	dir = filepath.Join(b.TempDir(), "cache")
	require.NoError(b, fixture.Make(b.Context(), dir, spec))
	return dir
}

// copied is a copy of a directory. The garbage that making it left is collected, so that it is in nobody's time.
func copied(b *testing.B, dir string) string {
	b.Helper()
	at := filepath.Join(b.TempDir(), "copy")
	require.NoError(b, os.RemoveAll(at))
	require.NoError(b, fixture.Copy(at, dir))
	runtime.GC()
	return at
}

// openMany opens a directory. Garbage is not collected: that is the backend's time.
func openMany(b *testing.B, dir string) (c cache.Manager, closeAll func()) {
	b.Helper()
	parts, err := local.OpenParts(b.Context(), dir, local.Options{Snapshotter: local.Native})
	require.NoError(b, err)
	opt := parts.ManagerOpt()
	opt.GarbageCollect = func(context.Context) (gc.Stats, error) { return nil, nil }
	c, err = cache.NewManager(opt)
	require.NoError(b, err)
	return c, func() {
		b.Helper()
		require.NoError(b, c.Close())
		require.NoError(b, parts.Close())
	}
}

// BenchmarkDiskUsage is row 8, and row 9 where the sizes are yet to be measured.
func BenchmarkDiskUsage(b *testing.B) {
	b.Run("sizes=known", func(b *testing.B) {
		c, closeAll := openMany(b, makeMany(b, manyRecords()))
		defer closeAll()
		b.ReportAllocs()
		for b.Loop() {
			benchUsage(b, c, benchRecords)
		}
		b.StopTimer()
	})
	b.Run("sizes=unknown", func(b *testing.B) {
		spec := manyRecords()
		spec.SizesKnown = false
		dir := makeMany(b, spec)
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			c, closeAll := openMany(b, copied(b, dir))
			b.StartTimer()
			benchUsage(b, c, benchRecords)
			b.StopTimer()
			closeAll()
			b.StartTimer()
		}
	})
}

func benchUsage(b *testing.B, c cache.Manager, records int) {
	b.Helper()
	list, err := c.DiskUsage(b.Context(), usage.DiskUsageInfo{})
	require.NoError(b, err)
	require.Len(b, list, records)
}

// BenchmarkPruneMany is row 10, a budget that 500 records have to go for, and row 11.
func BenchmarkPruneMany(b *testing.B) {
	for name, gone := range map[string]int{"budget": 500, "all": benchRecords} {
		b.Run(name, func(b *testing.B) {
			dir := makeMany(b, manyRecords())
			policy := usage.PruneInfo{All: true, ReservedSpace: int64(benchRecords-gone) * fixture.SnapshotSize}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c, closeAll := openMany(b, copied(b, dir))
				b.StartTimer()
				if err := c.Prune(b.Context(), nil, policy); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				require.Equal(b, benchRecords-gone, c.Stats().Records)
				closeAll()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkGetReleaseWhilePruned is row 12: an op prunes all of a cache but one record, which is got and released meanwhile without a
// pause. p99-ns is how long that takes.
func BenchmarkGetReleaseWhilePruned(b *testing.B) {
	dir := makeMany(b, manyRecords())
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		c, closeAll := openMany(b, copied(b, dir))
		mut, err := c.New(b.Context(), nil, nil, cache.CachePolicyRetain)
		require.NoError(b, err)
		id := mut.ID()
		require.NoError(b, mut.Release(b.Context()))
		b.StartTimer()
		pruned := make(chan error, 1)
		go func() {
			pruned <- c.Prune(b.Context(), nil, usage.PruneInfo{All: true, Filter: []string{"id!=" + id}})
		}()
		for done := false; !done; {
			start := time.Now()
			ref, err := c.GetMutable(b.Context(), id)
			require.NoError(b, err)
			require.NoError(b, ref.Release(b.Context()))
			took = append(took, time.Since(start))
			select {
			case err := <-pruned:
				require.NoError(b, err)
				done = true
			default:
			}
		}
		b.StopTimer()
		require.Equal(b, 1, c.Stats().Records)
		closeAll()
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkHeap is row 18: what a loaded record occupies after a garbage collection. Its time is that of an open and a close.
func BenchmarkHeap(b *testing.B) {
	dir := makeMany(b, manyRecords())
	inUse := func() int64 {
		runtime.GC()
		runtime.GC() // what a finalizer holds is free after the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var bytes float64
	for b.Loop() {
		before := inUse()
		c, closeAll := openMany(b, dir)
		bytes = float64(inUse()-before) / benchRecords
		runtime.KeepAlive(c)
		closeAll()
	}
	b.ReportMetric(bytes, "B/record")
}
