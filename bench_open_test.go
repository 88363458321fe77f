package cache_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/metadata"
)

// BenchmarkOpen is row 7: an op is NewManager on clean records in chains of ten, whose databases are open.
func BenchmarkOpen(b *testing.B) {
	dir := makeMany(b, manyRecords())
	parts, err := local.OpenParts(b.Context(), dir, local.Options{Snapshotter: local.Native})
	require.NoError(b, err)
	defer func() { require.NoError(b, parts.Close()) }()
	c := &benchCache{}
	opt := parts.ManagerOpt()
	opt.Snapshotter = &countedSnapshotter{opt.Snapshotter, c}
	opt.LeaseManager = &countedLeases{opt.LeaseManager, c}
	opt.ContentStore = &countedContent{opt.ContentStore, c}
	c.reset(b)
	for b.Loop() {
		b.StopTimer()
		opt.MetadataStore = metadata.NewStoreWithDB(staysOpen{parts.MetadataStore.DB()})
		runtime.GC() // nobody pays for the manager before
		b.StartTimer()
		c.Manager, err = cache.NewManager(opt)
		b.StopTimer()
		require.NoError(b, err)
		require.Equal(b, cache.Stats{Records: benchRecords}, c.Stats())
		require.NoError(b, c.Close())
		b.StartTimer()
	}
	c.report(b)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRecords, "ns/record")
}

// staysOpen is a database that the managers of all operations are made on.
type staysOpen struct{ metadata.Transactor }

func (staysOpen) Close() error { return nil }
