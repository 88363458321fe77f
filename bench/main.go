// Command bench measures this library and BuildKit's cache packages side by side: the same calls
// in the same order on the same kind of parts, in two directories of the same disk, in turns.
//
//	go run . [-rows 1,3,13] [-n N] [-quick] [-plots] [-json F] [-dir D]
//
// Progress goes to stderr, the table to stdout, and to a file as JSON: a list of the table's rows, see line. The full run (all
// rows, at least 5 pairs) writes ../docs/benchmarks.md as well, and plots of times against the number of records with the values
// behind them, see growth, into ../docs/plots. The exit status is 1 if a side gave a wrong result or a count is over its
// limit; times never decide it. It runs on Linux; without root overlayfs is replaced by the native
// snapshotter, which the table says.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/pkg/errors"
)

const (
	minPairs     = 5 // the fewest that the table may be made of
	defaultPairs = 9 // more and shorter samples: other load on the machine comes and goes
	reportPath   = "../docs/benchmarks.md"
	plotsDir     = "../docs/plots"
)

type flags struct {
	rows  string
	pairs int
	quick bool
	plots bool
	json  string
	dir   string
}

func main() {
	quiet()
	if request := os.Getenv(childEnv); request != "" {
		os.Exit(exitStatus(runChild(context.Background(), request, os.Stdout)))
	}
	var f flags
	flag.StringVar(&f.rows, "rows", "", "comma-separated `numbers` of the rows to run; empty means all")
	flag.IntVar(&f.pairs, "n", 0, "how many `pairs` of samples to take; 0 means 9, and 1 with -quick")
	flag.BoolVar(&f.quick, "quick", false, "little work: checks results and counts, the times mean nothing")
	flag.BoolVar(&f.plots, "plots", false, "measure and write the plots, and of the rows only those that -rows names; with -quick nothing is written")
	flag.StringVar(&f.json, "json", "", "write the rows to this `file` as JSON")
	flag.StringVar(&f.dir, "dir", os.TempDir(), "work below this `directory`, which decides on the disk that is measured")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, f, flag.Args())
	stop()
	os.Exit(exitStatus(err))
}

// quiet leaves out the warnings that containerd's parts write whenever they are opened.
func quiet() {
	if err := log.SetLevel("error"); err != nil {
		panic(err) // the level is a constant
	}
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}

func run(ctx context.Context, f flags, args []string) error {
	if len(args) > 0 {
		return errors.Errorf("unexpected argument %q", args[0])
	}
	if f.pairs < 0 {
		return errors.Errorf("-n %d is negative", f.pairs)
	}
	if f.full() || f.plots && !f.quick { // find out before an hour of work that its result has nowhere to go
		if _, err := os.Stat(filepath.Dir(reportPath)); err != nil {
			return errors.Wrap(err, "reports and plots go into docs/, start it in bench/")
		}
	}
	if f.pairs == 0 {
		f.pairs = defaultPairs
		if f.quick {
			f.pairs = 1
		}
	}
	rows, err := f.selected()
	if err != nil {
		return err
	}
	e, err := newEnv(ctx, f)
	if err != nil {
		return err
	}
	res, err := runAll(ctx, e, f, rows)
	if cerr := e.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	e.logf("done in %s", time.Since(e.start).Round(time.Second))
	return overLimit(res.lines)
}

// full tells whether this is the run that docs/benchmarks.md is of.
func (f flags) full() bool {
	return f.rows == "" && !f.quick && !f.plots && (f.pairs == 0 || f.pairs >= minPairs)
}

// makesPlots tells whether times are measured against numbers of records.
func (f flags) makesPlots() bool { return f.plots || f.full() || f.quick && f.rows == "" }

// selected are the rows to run.
func (f flags) selected() ([]row, error) {
	if f.plots && f.rows == "" {
		return nil, nil
	}
	return selectRows(allRows(), f.rows)
}

// result is what a run measured.
type result struct {
	lines  []line
	growth *growth // nil if it was not asked for
}

// runAll runs the rows and then makes the plots. The rows are written before the plots begin: what ends a run among these does not lose them.
func runAll(ctx context.Context, e *env, f flags, rows []row) (res result, err error) {
	if res.lines, err = runRows(ctx, e, rows); err != nil {
		return res, err
	}
	if err := writeRows(f, e, res); err != nil {
		return res, err
	}
	if !f.makesPlots() {
		return res, nil
	}
	e.logf("times against the number of records")
	counts := growthCounts
	if e.quick {
		counts = growthQuick
	}
	plots, err := e.measureGrowth(ctx, growthWorks(), counts, growthLimit)
	if err != nil {
		return res, errors.Wrap(err, "plots")
	}
	res.growth = newGrowth(e, plots)
	return res, writeGrowth(f, e, res)
}

func runRows(ctx context.Context, e *env, rows []row) ([]line, error) {
	lines := []line{} // a list in JSON, whether or not there are any
	for _, r := range rows {
		e.logf("row %d: %s", r.number, r.title)
		more, err := r.run(ctx, e)
		if err != nil {
			return nil, errors.Wrapf(err, "row %d", r.number)
		}
		for _, l := range more {
			l.Row = r.number
			l.judge()
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// writeRows writes the lines to standard output and where the flags say.
func writeRows(f flags, e *env, res result) error {
	if err := writeText(os.Stdout, mainTable(res.lines), countTable(res.lines)); err != nil {
		return err
	}
	if f.json != "" {
		if err := writeJSON(f.json, res.lines); err != nil {
			return err
		}
	}
	return writeDocument(f, e, res)
}

// writeGrowth writes the plots, and the report once more, which refers to them now.
func writeGrowth(f flags, e *env, res result) error {
	if err := writeText(os.Stdout, res.growth.table()); err != nil {
		return err
	}
	dir := plotsDir
	if f.quick {
		dir = "" // only whether they can be drawn
	} else {
		e.logf("writing %s", dir)
	}
	if err := res.growth.write(dir); err != nil {
		return err
	}
	return writeDocument(f, e, res)
}

func writeDocument(f flags, e *env, res result) error {
	if !f.full() {
		return nil
	}
	e.logf("writing %s", reportPath)
	return writeReport(reportPath, report{
		machine: e.machine, commit: e.commit, date: time.Now(), snapshotter: e.snapshotter, pairs: e.pairs,
		command: "cd bench && go run . " + strings.Join(os.Args[1:], " "), lines: res.lines, growth: res.growth,
	})
}

// selectRows picks rows by number, in the order of the table.
func selectRows(all []row, numbers string) ([]row, error) {
	if numbers == "" {
		return all, nil
	}
	wanted := map[int]bool{}
	for _, s := range strings.Split(numbers, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil {
			return nil, errors.Errorf("-rows: %q is not a number", s)
		}
		wanted[n] = true
	}
	var out []row
	for _, r := range all {
		if wanted[r.number] {
			out = append(out, r)
			delete(wanted, r.number)
		}
	}
	for n := range wanted {
		return nil, errors.Errorf("-rows: there is no row %d yet", n)
	}
	return out, nil
}

// overLimit is the error of a run with counts over their limits.
func overLimit(lines []line) error {
	var over []string
	for _, l := range lines {
		for _, c := range l.Counts {
			if !c.Met {
				over = append(over, fmt.Sprintf("row %d: %s", l.Row, c.verdict()))
			}
		}
	}
	if len(over) == 0 {
		return nil
	}
	return errors.Errorf("over the limit:\n  %s", strings.Join(over, "\n  "))
}
