package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/testutil/fixture"
	"github.com/layercache/cache/testutil/machine"
	"github.com/layercache/cache/usage"
)

// A test binary that is asked to work on a cache does so in place of its tests, as the program itself does.
func TestMain(m *testing.M) {
	if request := os.Getenv(childEnv); request != "" {
		os.Exit(exitStatus(runChild(context.Background(), request, os.Stdout)))
	}
	os.Exit(m.Run())
}

// A small run gives all figures, writes what it is asked for, and leaves nothing else.
func TestRun(t *testing.T) {
	const records = 60
	dir, out := t.TempDir(), t.TempDir()
	f := flags{
		records: "60,20", dir: dir, date: "2026-01-02",
		json: filepath.Join(out, "scale.json"), report: filepath.Join(out, "scale.md"), profiles: out,
	}
	require.NoError(t, run(t.Context(), f, nil))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)

	dt, err := os.ReadFile(f.json)
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(dt, &r))
	require.Equal(t, "2026-01-02", r.Date)
	require.Len(t, r.Sizes, 2)
	require.Equal(t, 20, r.Sizes[0].Records, "in ascending order")
	s := &r.Sizes[1]
	require.Equal(t, records, s.Records)
	for _, line := range figures() {
		if line.name != "fsync" && line.name != "heap it keeps" { // what 60 records keep is lost in the noise
			require.Positive(t, line.of(s), line.name)
		}
	}
	var during []string
	for _, l := range s.Latency {
		require.Positive(t, l.Calls, l.During)
		require.LessOrEqual(t, l.P50, l.P99)
		require.LessOrEqual(t, l.P99, l.Max)
		during = append(during, l.During)
	}
	require.Equal(t, []string{"nothing else", "DiskUsage", "WalkUsage", byBudget, byFilter}, during)
	for i, p := range s.Prunes {
		require.Equal(t, prunes[i], p.By)
		require.Equal(t, records/2, p.Gone)
		require.Len(t, p.Files, len(fixture.Databases()))
	}
	text, err := os.ReadFile(f.report)
	require.NoError(t, err)
	for _, want := range []string{"2026-01-02", machine.Commit(), "| records | 20 | 60 | growth |", "| 60 | Prune by filter |"} {
		require.Contains(t, string(text), want)
	}
	require.FileExists(t, filepath.Join(out, "60-budget-open.heap"))
	require.FileExists(t, filepath.Join(out, "60-filter-DiskUsage.cpu"))
}

// Wrong arguments are found before any work is done, and a cache that is not as it was said to be is a wrong result.
func TestWrongResults(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []flags{
		{records: "x", dir: dir},
		{records: "30", dir: dir},
		{records: "0", dir: dir},
		{records: "20", dir: filepath.Join(dir, "none")},
		{records: "20", dir: dir, report: filepath.Join(dir, "none", "scale.md")},
	} {
		require.Error(t, run(t.Context(), f, nil))
	}
	require.Error(t, run(t.Context(), flags{records: "20", dir: dir}, []string{"extra"}))

	at := filepath.Join(dir, "cache")
	spec := fixture.Spec{Snapshotter: "native", Records: 40, Chain: chain, SizesKnown: true, UsesDiffer: true}
	require.NoError(t, fixture.Make(t.Context(), at, spec))
	require.ErrorContains(t, measure.Ask(t.Context(), childEnv, request{Dir: at, Snapshotter: "native", Records: 40, By: "hand"}, nil), `"hand" is unknown`)
	var r runFigures
	err := measure.Ask(t.Context(), childEnv, request{Dir: at, Snapshotter: "native", Records: 20, By: byBudget}, &r)
	require.ErrorContains(t, err, "41 records instead of 21")
	err = measure.Ask(t.Context(), childEnv, request{Dir: at, Snapshotter: "native", Records: 41, By: byFilter}, &r)
	require.ErrorContains(t, err, "was pruned instead of", "none is internal")
}

// What a cache says of itself is held against what it has.
func TestCensus(t *testing.T) {
	var c census
	require.NoError(t, c.add(&usage.Info{ID: "spare", InUse: true, Size: 1}, "spare"))
	require.NoError(t, c.add(&usage.Info{ID: "a", Size: 2, RecordType: usage.TypeInternal}, "spare"))
	require.NoError(t, c.add(&usage.Info{ID: "b", Size: 4, Parents: []string{"a"}}, "spare"))
	require.ErrorContains(t, c.add(&usage.Info{ID: "c", InUse: true}, "spare"), "in use")
	require.NoError(t, c.check(3, "spare"))
	require.Equal(t, int64(7), c.bytes)
	require.Equal(t, 1, c.internal)
	require.ErrorContains(t, c.check(4, "spare"), "3 records instead of 4")
	require.ErrorContains(t, c.check(3, "other"), `"other" is missing`)

	other := census{ids: slices.Clone(c.ids)}
	slices.Reverse(other.ids)
	require.Equal(t, c.digest(), other.digest())
	other.ids[0] = "c"
	require.NotEqual(t, c.digest(), other.digest())
	twice := census{ids: []string{"a", "a"}}
	require.ErrorContains(t, twice.check(2, "a"), "only 1 of 2")
	orphan := census{ids: []string{"a", "spare"}, parents: []string{"gone"}}
	require.ErrorContains(t, orphan.check(2, "spare"), `"gone" is missing`)
}

// Growth is an exponent, and nothing where there is none.
func TestGrowth(t *testing.T) {
	r := report{Sizes: []sizeFigures{{Records: 10, Make: 5}, {Records: 1000, Make: 50000}}}
	f := figures()[0]
	require.Equal(t, "n^2.00", r.growth(f))
	r.Sizes[0].Make = 0
	require.Equal(t, "-", r.growth(f))
	require.Equal(t, "-", (&report{Sizes: r.Sizes[:1]}).growth(f))
	for text, v := range map[string]float64{"12.0 us": 12e3, "1.50 s": 1.5e9, "7.00 ns": 7, "30.0 ms": 3e7} {
		require.Equal(t, text, measure.Duration(v))
	}
	require.Equal(t, "1.50 KiB", bytesText(1536))
	require.Equal(t, "2048 GiB", bytesText(2<<40))
}

// What is made meanwhile is seen.
func TestHeapPeak(t *testing.T) {
	const size = 64 << 20
	peak, err := heapPeak(func() error {
		sink = make([]byte, size)
		return nil
	})
	require.NoError(t, err)
	require.Len(t, sink, size)
	sink = nil
	require.GreaterOrEqual(t, peak, float64(size))
}

// sink keeps what is put into it from being optimised away.
var sink []byte
