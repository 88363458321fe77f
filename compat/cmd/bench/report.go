package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pkg/errors"

	"github.com/layercache/cache/testutil/machine"
)

// line is what was measured of one work: the medians.
type line struct {
	work        string
	stock, ours time.Duration
}

// report is what the document is written from.
type report struct {
	machine     machine.Machine
	commit      string
	date        time.Time
	command     string
	snapshotter string
	pairs       int
	lines       []line
}

// heading begins the section of the document that is ours; it is the last one. bench/ writes what is above it, and leaves it as it is.
const heading = "\n## Whole builds\n"

const intro = heading + `
Written by compat/cmd/bench. BuildKit v0.34.1 as it is (stock), and the same with this library in place of its cache (ours),
built of the same modules, do the same work in turns, each on a directory of its own on one disk. A figure is the median. What the library
saves is a part of it only: a RUN step starts a container, a COPY step receives files, and a daemon opens its other databases.
`

const outro = `
A build is timed from the start of buildctl to its end, and begins with an empty cache where nothing else is said; its result stays there. A
start is timed until the daemon answers.
`

func (r report) markdown() string {
	var b strings.Builder
	b.WriteString(intro)
	fmt.Fprintf(&b, "\n%s- snapshotter: %s\n- commit: %s\n- date: %s\n- command: `%s` (%d pairs)\n\n",
		r.machine.Markdown(), r.snapshotter, r.commit,
		r.date.UTC().Format(time.RFC3339), strings.TrimSpace(r.command), r.pairs)
	b.WriteString(r.table())
	b.WriteString(outro)
	return b.String()
}

// write puts the section in the place of the one that the document has, or at its end.
func (r report) write(path string) error {
	dt, err := os.ReadFile(path)
	if err != nil {
		return errors.WithStack(err)
	}
	above, _, _ := strings.Cut(string(dt), heading)
	return errors.WithStack(os.WriteFile(path, []byte(above+r.markdown()), 0o644))
}

// table is the table in Markdown, which reads well as text, too.
func (r report) table() string {
	cells := [][]string{{"work", "stock", "ours", "ratio"}}
	for _, l := range r.lines {
		cells = append(cells, []string{l.work, seconds(l.stock), seconds(l.ours), fmt.Sprintf("%.2fx", ratio(l))})
	}
	widths := make([]int, len(cells[0]))
	for _, row := range cells {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for i, row := range cells {
		fmt.Fprintf(&b, "| %-*s | %*s | %*s | %*s |\n", widths[0], row[0], widths[1], row[1], widths[2], row[2], widths[3], row[3])
		if i == 0 {
			rule := func(n int) string { return strings.Repeat("-", n) }
			fmt.Fprintf(&b, "| %s | %s: | %s: | %s: |\n", rule(widths[0]), rule(widths[1]-1), rule(widths[2]-1), rule(widths[3]-1))
		}
	}
	return b.String()
}

func ratio(l line) float64 {
	if l.ours == 0 {
		return 0
	}
	return float64(l.stock) / float64(l.ours)
}

// seconds writes a time with three digits that matter.
func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

// median is the middle one of some values, of an even number the mean of the two in the middle.
func median(values []time.Duration) time.Duration {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
