// Command bench measures this library and BuildKit's cache packages side by side: the same calls
// in the same order on the same kind of parts, in two directories of the same disk, in turns.
//
//	go run . [-rows 1,3,13] [-n N] [-quick] [-json F] [-dir D]
//
// Progress goes to stderr, the table to stdout. The full run (all rows, at least 5 pairs) writes
// ../docs/benchmarks.md as well. The exit status is 1 if a side gave a wrong result or a count is over its
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

	"github.com/layercache/cache/bench/measure"
)

const (
	minPairs     = 5 // the fewest that the table may be made of
	defaultPairs = 9 // more and shorter samples: other load on the machine comes and goes
	reportPath   = "../docs/benchmarks.md"
)

type flags struct {
	rows  string
	pairs int
	quick bool
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
	full := f.rows == "" && !f.quick && (f.pairs == 0 || f.pairs >= minPairs)
	if full { // find out before an hour of work that its result has nowhere to go
		if _, err := os.Stat(filepath.Dir(reportPath)); err != nil {
			return errors.Wrap(err, "the full run writes a report, start it in bench/")
		}
	}
	if f.pairs == 0 {
		f.pairs = defaultPairs
		if f.quick {
			f.pairs = 1
		}
	}
	rows, err := selectRows(allRows(), f.rows)
	if err != nil {
		return err
	}
	e, err := newEnv(ctx, f)
	if err != nil {
		return err
	}
	start := time.Now()
	lines, err := runRows(ctx, e, rows)
	if cerr := e.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	e.logf("done in %s", time.Since(start).Round(time.Second))
	if err := output(f, e, lines, full); err != nil {
		return err
	}
	return overLimit(lines)
}

func runRows(ctx context.Context, e *env, rows []row) ([]line, error) {
	var lines []line
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

func output(f flags, e *env, lines []line, full bool) error {
	if err := writeText(os.Stdout, lines); err != nil {
		return err
	}
	if f.json != "" {
		if err := writeJSON(f.json, lines); err != nil {
			return err
		}
	}
	if !full {
		return nil
	}
	e.logf("writing %s", reportPath)
	return writeReport(reportPath, report{
		machine: e.machine, commit: measure.Commit(), date: time.Now(), snapshotter: e.snapshotter, pairs: e.pairs,
		command: "cd bench && go run . " + strings.Join(os.Args[1:], " "), lines: lines,
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
