package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// judged are a line that is met, one too slow, and one with a count over its limit.
func judged() []line {
	lines := []line{
		{Row: 1, Work: "fast", Unit: unitTime, Peer: 1e6, Ours: 1e3, MinRatio: 100, Target: ">= 100x"},
		{Row: 3, Work: "slow", Unit: unitTime, Peer: 4e6, Ours: 2e6, MinRatio: 2.5, Target: ">= 2.5x", Counts: []count{
			{What: "calls", Peer: number(36), Ours: number(14), Limit: number(14)},
			{What: "no limit", Ours: number(1.5)},
		}},
		{Row: 13, Work: "wasteful", Unit: "B", Peer: 10, Ours: 5, MinRatio: 2, Target: ">= 2x", Counts: []count{
			{What: "syncs", Peer: number(2), Ours: number(1), Limit: number(0)},
		}},
	}
	for i := range lines {
		lines[i].judge()
	}
	return lines
}

func TestJudge(t *testing.T) {
	lines := judged()
	require.Equal(t, []bool{true, false, false}, []bool{lines[0].Met, lines[1].Met, lines[2].Met})
	require.True(t, lines[1].Counts[0].Met)
	require.InDelta(t, 1000, lines[0].Ratio, 0)

	uncounted := line{Peer: 2, Ours: 1, MinRatio: 1, Counts: []count{{What: "syncs", Limit: number(0)}}}
	uncounted.judge()
	require.False(t, uncounted.Met, "what was not counted is not within its limit")
	require.ErrorContains(t, overLimit([]line{uncounted}), "syncs was not counted")
}

func TestOnlyCountsFailARun(t *testing.T) {
	lines := judged()
	require.NoError(t, overLimit(lines[:2]), "a ratio that is missed is no failure")
	require.EqualError(t, overLimit(lines), "over the limit:\n  row 13: syncs: 1, the limit is 0")
}

func TestText(t *testing.T) {
	var b strings.Builder
	require.NoError(t, writeText(&b, mainTable(judged()), table{}, countTable(judged())))
	require.Equal(t, strings.TrimLeft(`
row  work         peer     ours  ratio  target   met
  1  fast      1.00 ms  1.00 us  1000x  >= 100x  yes
  3  slow      4.00 ms  2.00 ms  2.00x  >= 2.5x  NO
 13  wasteful     10 B      5 B  2.00x  >= 2x    NO

row  count     peer  ours  limit  met
  3  calls       36    14     14  yes
  3  no limit     -  1.50      -  -
 13  syncs        2     1      0  NO

`, "\n"), b.String())
}

func TestMarkdown(t *testing.T) {
	text := report{lines: judged(), commit: "abc", command: "cd bench && go run . ", pairs: 5, date: time.Unix(0, 0)}.markdown()
	require.Contains(t, text, `
| row | work     |    peer |    ours | ratio | target  | met |
| --: | -------- | ------: | ------: | ----: | ------- | --- |
|   1 | fast     | 1.00 ms | 1.00 us | 1000x | >= 100x | yes |
`)
	require.Contains(t, text, "- commit: abc\n- date: 1970-01-01T00:00:00Z\n- command: `cd bench && go run .` (5 pairs)\n")
}

// The section of compat/cmd/bench stays, and everything else is written anew.
func TestReportKeepsWholeBuilds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	r := report{lines: judged()}
	for _, section := range []string{"", wholeBuilds + "\n| a table |\n"} {
		require.NoError(t, writeReport(path, report{}))
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteString(section)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.NoError(t, writeReport(path, r))
		dt, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, r.markdown()+section, string(dt))
		require.NoError(t, os.Remove(path))
	}
}

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.json")
	require.NoError(t, writeJSON(path, judged()))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var rows []map[string]any
	require.NoError(t, json.Unmarshal(data, &rows))
	require.Len(t, rows, 3)
	require.Contains(t, string(data), `"target": ">= 100x"`)
	for _, key := range []string{"row", "work", "peer", "ours", "ratio", "target", "met"} {
		require.Contains(t, rows[0], key)
	}
	require.InDelta(t, 1, rows[0]["row"], 0)
	require.Equal(t, true, rows[0]["met"])
	require.Equal(t, false, rows[2]["met"])
}

func TestSelectRows(t *testing.T) {
	all := allRows()
	require.IsIncreasing(t, numbers(all), "one row per number, in order")
	got, err := selectRows(all, "3, 1")
	require.NoError(t, err)
	require.Equal(t, []int{1, 3}, numbers(got))
	got, err = selectRows(all, "")
	require.NoError(t, err)
	require.Len(t, got, len(all))
	for _, bad := range []string{"x", "99", "1,", "1.5"} {
		_, err := selectRows(all, bad)
		require.Error(t, err, bad)
	}
}

func numbers(rows []row) (out []int) {
	for _, r := range rows {
		out = append(out, r.number)
	}
	return out
}

// Every number is handed out once, however they are spread.
func TestSpread(t *testing.T) {
	for _, goroutines := range []int{1, 3, 8} {
		for _, n := range []int{0, 1, 7, 1000, 4099} {
			calls := make([]atomic.Int32, n)
			require.NoError(t, spread(t.Context(), n, goroutines, func(_ context.Context, i int) error {
				calls[i].Add(1)
				return nil
			}))
			for i := range calls {
				require.EqualValues(t, 1, calls[i].Load(), "call %d of %d on %d goroutines", i, n, goroutines)
			}
		}
		boom := errors.New("boom")
		require.ErrorIs(t, spread(t.Context(), 100, goroutines, func(_ context.Context, i int) error {
			if i == 50 {
				return boom
			}
			return nil
		}), boom)
	}
}

// Pairs alternate, the first pair only warms up, and the results are medians.
func TestAlternate(t *testing.T) {
	var order []string
	take := func(name string, values ...float64) sample {
		i := -1
		return func(context.Context) (float64, error) {
			order = append(order, name)
			i++
			return values[i], nil
		}
	}
	e := &env{pairs: 3, start: time.Now()}
	p, o, err := e.alternate(t.Context(), unitTime, take("A", 1000, 30, 10, 20), take("B", 1000, 1, 9, 2))
	require.NoError(t, err)
	require.InDelta(t, 20, p, 0)
	require.InDelta(t, 2, o, 0)
	require.Equal(t, "ABABABAB", strings.Join(order, ""))
}
