package cache_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/observe"
)

// blind is the cheapest observer there is.
type blind struct{}

func (blind) Observe(cache.Event) {}

// observers are what Get and Release are measured with.
var observers = []struct {
	name string
	make func() cache.Observer
}{
	{"none", func() cache.Observer { return nil }},
	{"blind", func() cache.Observer { return blind{} }},
	{"counters", func() cache.Observer { return &observe.Counters{} }},
}

// openIdle opens a cache with a record that nobody uses.
func openIdle(tb testing.TB, observer cache.Observer) (m cache.Manager, id string) {
	tb.Helper()
	c, err := local.Open(tb.Context(), tb.TempDir(), local.Options{Snapshotter: local.Native, Observer: observer, NoBackgroundGC: true})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, c.Close()) })
	mut, err := c.New(tb.Context(), nil, nil, cache.CachePolicyRetain)
	require.NoError(tb, err)
	imm, err := mut.Commit(tb.Context())
	require.NoError(tb, err)
	require.NoError(tb, imm.Finalize(tb.Context()))
	require.NoError(tb, imm.Release(tb.Context()))
	return c, imm.ID()
}

func getAndRelease(ctx context.Context, m cache.Manager, id string) error {
	ref, err := m.Get(ctx, id, nil)
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

// BenchmarkObserver is a Get and a Release of an idle record, each of which is an event, by who observes.
func BenchmarkObserver(b *testing.B) {
	quietWhile(b)
	for _, o := range observers {
		b.Run("observer="+o.name, func(b *testing.B) {
			m, id := openIdle(b, o.make())
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if err := getAndRelease(ctx, m, id); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestObserverAllocatesNothing: events cost no memory, neither where nobody observes nor by themselves where somebody does. Bench row 1.
func TestObserverAllocatesNothing(t *testing.T) {
	allocs := map[string]float64{}
	for _, o := range observers {
		m, id := openIdle(t, o.make())
		allocs[o.name] = testing.AllocsPerRun(1000, func() {
			if err := getAndRelease(t.Context(), m, id); err != nil {
				t.Error(err)
			}
		})
	}
	require.LessOrEqual(t, allocs["none"], 4.0)
	require.Equal(t, map[string]float64{"none": allocs["none"], "blind": allocs["none"], "counters": allocs["none"]}, allocs)
}
