package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

func growthEnv(t *testing.T, pairs int) *env {
	return &env{dir: t.TempDir(), snapshotter: "native", quick: true, pairs: pairs, start: time.Now()}
}

// scripted is a work whose samples take what it is told; it notes who took one of how many records.
type scripted struct {
	took  map[string]map[int]float64
	order []string
	open  int
}

func (s *scripted) work() growthWork {
	return growthWork{name: "work", title: "work", prepare: func(_ context.Context, _ *env, side, dir string, records int) (sample, func() error, error) {
		if _, err := os.Stat(filepath.Join(dir, "metadata_v2.db")); err != nil {
			return nil, nil, err
		}
		s.open++
		take := func(context.Context) (float64, error) {
			s.order = append(s.order, fmt.Sprintf("%s %d", side, records))
			v, ok := s.took[side][records]
			if !ok {
				return 0, errors.Errorf("%s was not to be measured on %d records", side, records)
			}
			return v, nil
		}
		return take, func() error { s.open--; return nil }, nil
	}}
}

// A side that takes too long is out, and the other goes on alone.
func TestGrowthEnds(t *testing.T) {
	s := &scripted{took: map[string]map[int]float64{
		sidePeer: {10: 50, 20: 101},
		sideOurs: {10: 1, 20: 2, 30: 30, 40: 400},
	}}
	plots, err := growthEnv(t, 1).measureGrowth(t.Context(), []growthWork{s.work()}, []int{10, 20, 30, 40}, 100)
	require.NoError(t, err)
	require.Equal(t, []string{"peer 10", "ours 10", "peer 20", "ours 20", "ours 30", "ours 40"}, s.order, "both in turns")
	require.Zero(t, s.open, "what was opened is closed")
	require.Equal(t, []curves{{
		Name: "work", Title: "work", Unit: unitTime,
		Peer: curve{Points: []growthPoint{{10, 50, 1}, {20, 101, 1}}, Ended: true},
		Ours: curve{Points: []growthPoint{{10, 1, 1}, {20, 2, 1}, {30, 30, 1}, {40, 400, 1}}}, // there is nothing after it to go without
	}}, plots)

	// With both out, no more directories are made.
	s = &scripted{took: map[string]map[int]float64{sidePeer: {10: 101}, sideOurs: {10: 100, 20: 150}}}
	plots, err = growthEnv(t, 1).measureGrowth(t.Context(), []growthWork{s.work()}, []int{10, 20, 30, 40}, 100)
	require.NoError(t, err)
	require.Len(t, s.order, 3)
	require.True(t, plots[0].Peer.Ended)
	require.True(t, plots[0].Ours.Ended)
	require.Len(t, plots[0].Ours.Points, 2, "what takes exactly the limit is within it")
}

// One work that has ended leaves the others alone, and what fails says where.
func TestGrowthOfSeveralWorks(t *testing.T) {
	slow := &scripted{took: map[string]map[int]float64{sidePeer: {10: 200}, sideOurs: {10: 200}}}
	fast := &scripted{took: map[string]map[int]float64{sidePeer: {10: 1, 20: 1}, sideOurs: {10: 1, 20: 1}}}
	e := growthEnv(t, 1)
	_, err := e.measureGrowth(t.Context(), []growthWork{slow.work(), fast.work()}, []int{10, 20}, 100)
	require.NoError(t, err)
	require.Len(t, slow.order, 2)
	require.Len(t, fast.order, 4)

	broken := &scripted{took: map[string]map[int]float64{sidePeer: {10: 1}, sideOurs: {10: 1}}}
	_, err = e.measureGrowth(t.Context(), []growthWork{broken.work()}, []int{10, 20}, 100)
	require.ErrorContains(t, err, "work of 20 records: peer: peer was not to be measured on 20 records")
	require.Zero(t, broken.open)
	left, err := os.ReadDir(e.dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A point takes as many pairs as fit, one in any case; its value is their median.
func TestAlternateWithin(t *testing.T) {
	e := growthEnv(t, 1)
	take := func(values ...float64) sample {
		return func(context.Context) (float64, error) {
			v := values[0]
			values = values[1:]
			return v, nil
		}
	}
	p, o, err := e.alternateWithin(t.Context(), unitTime, 100, 3, take(5, 6, 7, 8), take(1, 2, 3, 4))
	require.NoError(t, err)
	require.Equal(t, [][]float64{{5, 6, 7}, {1, 2, 3}}, [][]float64{p, o})
	p, o, err = e.alternateWithin(t.Context(), unitTime, 100, 3, take(60, 40), take(1, 2))
	require.NoError(t, err)
	require.Equal(t, [][]float64{{60, 40}, {1, 2}}, [][]float64{p, o}, "after two pairs, the budget is spent")
	p, o, err = e.alternateWithin(t.Context(), unitTime, 100, 3, nil, take(500))
	require.NoError(t, err)
	require.Empty(t, p)
	require.Equal(t, []float64{500}, o)
	boom := errors.New("boom")
	_, _, err = e.alternateWithin(t.Context(), unitTime, 100, 3, take(1), func(context.Context) (float64, error) { return 0, boom })
	require.ErrorIs(t, err, boom)
	require.ErrorContains(t, err, "ours: ")

	var c curve
	c.add(10, []float64{3, 900, 5}, 100, false)
	require.Equal(t, curve{Points: []growthPoint{{10, 5, 3}}}, c)
}

// The works themselves, on both sides, and each finds out when there are not as many records as there should be.
func TestGrowthWorks(t *testing.T) {
	e := growthEnv(t, 1)
	plots, err := e.measureGrowth(t.Context(), growthWorks(), []int{10, 20}, growthLimit)
	require.NoError(t, err)
	var names []string
	for _, c := range plots {
		names = append(names, c.Name)
		for _, line := range []curve{c.Peer, c.Ours} {
			require.Len(t, line.Points, 2, c.Name)
			for i, p := range line.Points {
				require.Equal(t, growthQuickCount(i), p.Records)
				require.Positive(t, p.Value)
			}
		}
	}
	require.Equal(t, []string{"open", "diskusage", "prune"}, names)
	require.IsIncreasing(t, growthCounts)
	require.IsIncreasing(t, growthQuick)

	for _, w := range growthWorks() {
		prepare := w.prepare
		w.prepare = func(ctx context.Context, e *env, side, dir string, records int) (sample, func() error, error) {
			return prepare(ctx, e, side, dir, records+1)
		}
		_, err := e.measureGrowth(t.Context(), []growthWork{w}, []int{10}, growthLimit)
		require.ErrorContains(t, err, "instead of", w.name)
	}
}

func growthQuickCount(i int) int { return []int{10, 20}[i] }

// measured is growth with a line that ended.
func measured() growth {
	return growth{Machine: "2 x <CPU>", Commit: "abc", Date: "2026-01-02T03:04:05Z", Limit: growthLimit, Plots: []curves{
		{
			Name: "prune", Title: "Prune of all", Unit: unitTime,
			Peer: curve{Points: []growthPoint{{1000, 4e8, 5}, {10_000, 4e10, 1}}, Ended: true},
			Ours: curve{Points: []growthPoint{{1000, 1e8, 5}, {10_000, 1e9, 5}, {100_000, 1e10, 3}}},
		},
		{
			Name: "open", Title: "Open", Unit: unitTime,
			Peer: curve{Points: []growthPoint{{1000, 1e7, 1}}},
			Ours: curve{Points: []growthPoint{{1000, 1e6, 1}}},
		},
	}}
}

func TestWriteGrowth(t *testing.T) {
	g, dir := measured(), filepath.Join(t.TempDir(), "plots")
	require.NoError(t, g.write(dir))
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "growth.json"), filepath.Join(dir, "open.svg"), filepath.Join(dir, "prune.svg")}, files)

	data, err := os.ReadFile(filepath.Join(dir, "growth.json"))
	require.NoError(t, err)
	var back growth
	require.NoError(t, json.Unmarshal(data, &back))
	require.Equal(t, g, back)

	data, err = os.ReadFile(filepath.Join(dir, "prune.svg"))
	require.NoError(t, err)
	texts := texts(t, data)
	require.Contains(t, texts, "peer (BuildKit), only up to 10 k records: these took 40.0 s, the limit is 30 s")
	require.Contains(t, texts, "ours")
	require.Contains(t, texts, "ours, 100 k: 10 s")
	require.Contains(t, texts, "in proportion to the records")
	require.Contains(t, strings.Join(texts, "\n"), "2 x <CPU>")
	for _, label := range []string{"1 k", "2 k", "5 k", "10 k", "100 k", "100 ms", "1 s", "10 s"} {
		require.Contains(t, texts, label)
	}

	none := t.TempDir()
	t.Chdir(none)
	require.NoError(t, g.write(""))
	left, err := os.ReadDir(none)
	require.NoError(t, err)
	require.Empty(t, left)
	g.Plots[0].Ours.Points[0].Value = 0
	require.ErrorContains(t, g.write(""), `chart "Prune of all"`, "it is drawn all the same")
}

// texts are those of a well-formed document.
func texts(t *testing.T, document []byte) (out []string) {
	d := xml.NewDecoder(strings.NewReader(string(document)))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		if text, ok := token.(xml.CharData); ok {
			out = append(out, string(text))
		}
	}
}

func TestGrowthInTheReport(t *testing.T) {
	g := measured()
	text := report{lines: judged(), growth: &g, date: time.Unix(0, 0)}.markdown()
	require.Contains(t, text, "![Prune of all against the number of records](plots/prune.svg)\n")
	require.Contains(t, text, "![Open against the number of records](plots/open.svg)\n")
	require.Contains(t, text, "first point above 30 s")
	require.Contains(t, text, `
| plot  | records |    peer |    ours | ratio |
| ----- | ------: | ------: | ------: | ----: |
| prune |    1000 |  400 ms |  100 ms | 4.00x |
| prune |   10000 |  40.0 s |  1.00 s | 40.0x |
| prune |  100000 |       - |  10.0 s |     - |
| open  |    1000 | 10.0 ms | 1.00 ms | 10.0x |
`)
	require.NotContains(t, report{lines: judged(), date: time.Unix(0, 0)}.markdown(), "plots/")
}

func TestTickWords(t *testing.T) {
	require.Equal(t, []string{"1", "500", "1 k", "2.5 k", "100 k", "1 M"}, []string{
		tickCount(1), tickCount(500), tickCount(1000), tickCount(2500), tickCount(1e5), tickCount(1e6),
	})
	require.Equal(t, []string{"5 ns", "20 us", "1 ms", "500 ms", "1 s", "2000 s"}, []string{
		tickTime(5), tickTime(2e4), tickTime(1e6), tickTime(5e8), tickTime(1e9), tickTime(2e12),
	})
}

// Plots alone run no row, the full run and a quick one of all rows make them, and a run of some rows does not.
func TestWhatARunMakes(t *testing.T) {
	for _, c := range []struct {
		f           flags
		rows        int
		plots, full bool
	}{
		{flags{}, len(allRows()), true, true},
		{flags{pairs: minPairs}, len(allRows()), true, true},
		{flags{pairs: 1}, len(allRows()), false, false},
		{flags{quick: true}, len(allRows()), true, false},
		{flags{plots: true}, 0, true, false},
		{flags{plots: true, quick: true}, 0, true, false},
		{flags{plots: true, rows: "1,2"}, 2, true, false},
		{flags{rows: "1,2"}, 2, false, false},
	} {
		rows, err := c.f.selected()
		require.NoError(t, err)
		require.Len(t, rows, c.rows, "%+v", c.f)
		require.Equal(t, c.plots, c.f.makesPlots(), "%+v", c.f)
		require.Equal(t, c.full, c.f.full(), "%+v", c.f)
	}
}
