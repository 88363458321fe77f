package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/plot"
)

// newGrowth adds where, when and of what the plots were made.
func newGrowth(e *env, plots []curves) *growth {
	m := e.machine
	return &growth{
		Machine: fmt.Sprintf("%d x %s", m.CPUs, m.CPU), System: strings.Join([]string{m.Kernel, m.Filesystem, m.GoVersion}, ", "),
		Snapshotter: e.snapshotter, Commit: e.commit, Date: time.Now().UTC().Format(time.RFC3339), Limit: growthLimit, Plots: plots,
	}
}

// write writes the plots and growth.json. Without a directory it only draws them.
func (g growth) write(dir string) error {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return errors.WithStack(err)
		}
	}
	for _, c := range g.Plots {
		svg, err := g.chart(c).SVG()
		if err != nil {
			return err
		}
		if dir == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, c.Name+".svg"), svg, 0o644); err != nil {
			return errors.WithStack(err)
		}
	}
	if dir == "" {
		return nil
	}
	return writeJSON(filepath.Join(dir, "growth.json"), g)
}

func (g growth) chart(c curves) plot.Chart {
	return plot.Chart{
		Title: c.Title, XLabel: "records", YLabel: "time",
		FormatX: tickCount, FormatY: tickTime,
		Notes: []string{strings.Join([]string{g.Machine, g.System, g.Snapshotter}, ", "), "commit " + g.Commit + ", " + g.Date},
		Series: []plot.Series{
			{Name: "peer (BuildKit)", Note: g.why(c.Peer), Points: c.Peer.points()},
			{Name: "ours", Note: g.why(c.Ours), Points: c.Ours.points()},
		},
		Guide: c.Ours.proportional(),
	}
}

// why tells in the legend why a line ends before the other.
func (g growth) why(c curve) string {
	if !c.Ended {
		return ""
	}
	last := c.Points[len(c.Points)-1]
	return fmt.Sprintf(", only up to %s records: these took %s, the limit is %s",
		tickCount(float64(last.Records)), quantity(last.Value, unitTime), tickTime(g.Limit))
}

func (c curve) points() []plot.Point {
	out := make([]plot.Point, len(c.Points))
	for i, p := range c.Points {
		out[i] = plot.Point{X: float64(p.Records), Y: p.Value}
	}
	return out
}

// proportional is a line through the last point on which twice the records take twice the time; nil if there is nothing to
// compare with it.
func (c curve) proportional() *plot.Series {
	if len(c.Points) < 2 {
		return nil
	}
	first, last := c.Points[0], c.Points[len(c.Points)-1]
	perRecord := last.Value / float64(last.Records)
	return &plot.Series{Name: "in proportion to the records", Points: []plot.Point{
		{X: float64(first.Records), Y: perRecord * float64(first.Records)},
		{X: float64(last.Records), Y: last.Value},
	}}
}

// table has a row for each point of either side.
func (g growth) table() table {
	t := table{
		head:  []string{"plot", "records", "peer", "ours", "ratio"},
		right: []bool{false, true, true, true, true},
	}
	for _, c := range g.Plots {
		peer, ours := c.Peer.byRecords(), c.Ours.byRecords()
		longer := c.Ours.Points
		if len(c.Peer.Points) > len(longer) {
			longer = c.Peer.Points
		}
		for _, p := range longer {
			cells := []string{c.Name, strconv.Itoa(p.Records), "-", "-", "-"}
			pv, hasPeer := peer[p.Records]
			ov, hasOurs := ours[p.Records]
			if hasPeer {
				cells[2] = quantity(pv, c.Unit)
			}
			if hasOurs {
				cells[3] = quantity(ov, c.Unit)
			}
			if hasPeer && hasOurs {
				cells[4] = measure.Significant(ratio(pv, ov)) + "x"
			}
			t.cells = append(t.cells, cells)
		}
	}
	return t
}

func (c curve) byRecords() map[int]float64 {
	out := make(map[int]float64, len(c.Points))
	for _, p := range c.Points {
		out[p.Records] = p.Value
	}
	return out
}

// markdown refers to the plots from a report beside their directory.
func (g growth) markdown(b *strings.Builder) {
	fmt.Fprintf(b, `
## Times against the number of records

Both axes are logarithmic: work in proportion to the records is a line as steep as the dotted one, quadratic work one twice as
steep. A side is not measured beyond its first point above %s. growth.json beside the plots has the values.

`, tickTime(g.Limit))
	for _, c := range g.Plots {
		fmt.Fprintf(b, "![%s against the number of records](%s/%s.svg)\n\n", c.Title, filepath.Base(plotsDir), c.Name)
	}
	g.table().markdown(b)
}

// tickCount words a number of records for an axis.
func tickCount(v float64) string {
	switch {
	case v >= 1e6:
		return trimmed(measure.Significant(v/1e6)) + " M"
	case v >= 1e3:
		return trimmed(measure.Significant(v/1e3)) + " k"
	}
	return trimmed(measure.Significant(v))
}

// tickTime words a time in nanoseconds for an axis.
func tickTime(v float64) string {
	digits, unit, _ := strings.Cut(quantity(v, unitTime), " ")
	return trimmed(digits) + " " + unit
}

// trimmed leaves out zeros at the end of a fraction.
func trimmed(digits string) string {
	if !strings.Contains(digits, ".") {
		return digits
	}
	return strings.TrimRight(strings.TrimRight(digits, "0"), ".")
}
