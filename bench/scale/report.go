package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/testutil/fixture"
	"github.com/layercache/cache/testutil/machine"
)

// report is what the command gives out.
type report struct {
	Date, Commit, Command, Snapshotter string
	Machine                            machine.Machine
	Sizes                              []sizeFigures
}

// sizeFigures are those of one number of records.
type sizeFigures struct {
	Records int
	// Make is how long making the cache took.
	Make        float64
	Files       []int64
	Parts       float64
	Open        openFigures
	Slice, Walk listFigures
	Prunes      []pruneFigures
	// Latency is of the first cache, and of the prunes of the others.
	Latency []latency
}

// figure is one line of the table.
type figure struct {
	name string
	text func(float64) string
	of   func(*sizeFigures) float64
	// per tells that what it is per record is told as well, and growth how it grows.
	per, growth bool
}

// bytesText words a size.
func bytesText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	for n >= 1024 && len(units) > 1 {
		n, units = n/1024, units[1:]
	}
	return measure.Significant(n) + " " + units[0]
}

func figures() []figure {
	all := []figure{{"making the cache", measure.Duration, func(s *sizeFigures) float64 { return s.Make }, true, true}}
	for i, name := range fixture.Databases() {
		all = append(all, figure{name, bytesText, func(s *sizeFigures) float64 { return float64(s.Files[i]) }, true, true})
	}
	all = append(all,
		figure{"opening the databases", measure.Duration, func(s *sizeFigures) float64 { return s.Parts }, true, true},
		figure{"NewManager", measure.Duration, func(s *sizeFigures) float64 { return s.Open.Took }, true, true},
		figure{"heap it keeps", bytesText, func(s *sizeFigures) float64 { return s.Open.Kept }, true, true},
		figure{"heap before garbage collection", bytesText, func(s *sizeFigures) float64 { return s.Open.Grown }, true, true},
		figure{"allocations", measure.Significant, func(s *sizeFigures) float64 { return s.Open.Allocs }, true, true},
		figure{"bytes allocated", bytesText, func(s *sizeFigures) float64 { return s.Open.AllocBytes }, true, true},
		figure{"DiskUsage", measure.Duration, func(s *sizeFigures) float64 { return s.Slice.Took }, true, true},
		figure{"heap at its peak, DiskUsage", bytesText, func(s *sizeFigures) float64 { return s.Slice.Peak }, true, true},
		figure{"WalkUsage", measure.Duration, func(s *sizeFigures) float64 { return s.Walk.Took }, true, true},
		figure{"heap at its peak, WalkUsage", bytesText, func(s *sizeFigures) float64 { return s.Walk.Peak }, true, true},
	)
	for i, how := range prunes {
		prune := func(of func(*pruneFigures) float64) func(*sizeFigures) float64 {
			return func(s *sizeFigures) float64 { return of(&s.Prunes[i]) }
		}
		all = append(all,
			figure{"Prune to half by " + how, measure.Duration, prune(func(p *pruneFigures) float64 { return p.Took }), true, true},
			figure{"records per second", measure.Significant, prune(func(p *pruneFigures) float64 { return float64(p.Gone) / p.Took * 1e9 }), false, false},
			figure{"fdatasync", measure.Significant, prune(func(p *pruneFigures) float64 { return float64(p.Fdatasync) }), true, true},
			figure{"fsync", measure.Significant, prune(func(p *pruneFigures) float64 { return float64(p.Fsync) }), false, false},
			figure{"heap at its peak, prune by " + how, bytesText, prune(func(p *pruneFigures) float64 { return p.Peak }), true, true},
			figure{"NewManager on what is left", measure.Duration, prune(func(p *pruneFigures) float64 { return p.Reopen }), false, true},
		)
	}
	return all
}

// grid lays out cells: the columns are the sizes, and how much the last is of the first where that means something.
func (r report) grid() [][]string {
	head := []string{"records"}
	for i := range r.Sizes {
		head = append(head, fmt.Sprint(r.Sizes[i].Records))
	}
	cells := [][]string{append(head, "growth")}
	for _, f := range figures() {
		row := []string{f.name}
		for i := range r.Sizes {
			s := &r.Sizes[i]
			v := f.of(s)
			text := f.text(v)
			if f.per {
				text += " (" + f.text(v/float64(s.Records)) + ")"
			}
			row = append(row, text)
		}
		cells = append(cells, append(row, r.growth(f)))
	}
	return cells
}

// growth is the exponent e with which a figure grows as records^e from the first size to the last.
func (r report) growth(f figure) string {
	if !f.growth || len(r.Sizes) < 2 {
		return "-"
	}
	first, last := &r.Sizes[0], &r.Sizes[len(r.Sizes)-1]
	e := math.Log(f.of(last)/f.of(first)) / math.Log(float64(last.Records)/float64(first.Records))
	if math.IsNaN(e) || math.IsInf(e, 0) {
		return "-"
	}
	return fmt.Sprintf("n^%.2f", e)
}

// latencies are laid out with a line for each size and phase.
func (r report) latencies() [][]string {
	cells := [][]string{{"records", "meanwhile", "calls", "p50", "p99", "max", "nothing: p50", "p99", "max"}}
	for i := range r.Sizes {
		for _, l := range r.Sizes[i].Latency {
			during := l.During
			if during == byBudget || during == byFilter {
				during = "Prune by " + during
			}
			cells = append(cells, []string{
				fmt.Sprint(r.Sizes[i].Records), during, fmt.Sprint(l.Calls), measure.Duration(l.P50), measure.Duration(l.P99), measure.Duration(l.Max),
				measure.Duration(l.NothingP50), measure.Duration(l.NothingP99), measure.Duration(l.NothingMax),
			})
		}
	}
	return cells
}

// table is for a terminal.
func (r report) table() string {
	var b strings.Builder
	for i, cells := range [][][]string{r.grid(), r.latencies()} {
		if i > 0 {
			b.WriteString("\nGet + Release:\n")
		}
		widths := make([]int, len(cells[0]))
		for _, row := range cells {
			for k, c := range row {
				widths[k] = max(widths[k], len(c))
			}
		}
		for _, row := range cells {
			for k, c := range row {
				fmt.Fprintf(&b, "%-*s  ", widths[k], c)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func markdownTable(b *strings.Builder, cells [][]string) {
	for i, row := range cells {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
}

const intro = `# Scale

Written by bench/scale; do not edit. Caches of this library alone, in chains of ten records with known sizes and uses that differ, half of
them of the type "internal", are opened, listed, and pruned to half: one by a budget, another by a policy with All and the filter
"type==internal". Each is worked on in a process of its own, and a wrong result ends the run: what is reported, what is left, and what
is there after opening it again.
`

const notes = `
In brackets: per record that there was at first. Growth is the exponent between the first size and the last: n log n shows as about n^1.07 from
10 thousand to a million. "Heap at its peak" is by how much the heap grew, garbage that was not collected yet included, looked at every %s.
The garbage collection with which a prune ends is containerd's, and left out. The counter of syncs costs a few microseconds for each of them. The files are as made, in few large
transactions; a database does not shrink when records go.

Get + Release of one record, one call every %s, from when a call was due; beside it a call that does nothing at the same pace, which tells what
the machine withholds:

`

// markdown is docs/scale.md.
func (r report) markdown() string {
	var b strings.Builder
	b.WriteString(intro)
	fmt.Fprintf(&b, "\n%s- snapshotter: %s\n- commit: %s\n- date: %s\n- command: `%s`\n\n",
		r.Machine.Markdown(), r.Snapshotter, r.Commit, r.Date,
		strings.TrimSpace("cd bench && go run ./scale "+r.Command))
	markdownTable(&b, r.grid())
	fmt.Fprintf(&b, notes, heapEvery, time.Duration(measure.Pace))
	markdownTable(&b, r.latencies())
	return b.String()
}
