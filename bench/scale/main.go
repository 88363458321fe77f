// Command scale measures how this library grows: caches of up to a million records are opened, listed and pruned to half,
// while somebody gets and releases a record at a steady pace.
//
//	go run ./scale [-records 10000,30000,100000,300000,1000000] [-json F] [-dir D] [-report F] [-date T] [-profiles D]
//
// Progress goes to stderr, the table to stdout. A million records take 27 GB below the directory of -dir, two caches of them. A run of the sizes
// above, in whatever order, writes ../docs/scale.md, any other run only where -report says so. The exit status is 1 if a
// result was wrong; times never decide it. It runs on Linux; without root overlayfs is replaced by the native snapshotter.
package main

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/ours"
	"github.com/layercache/cache/testutil/fixture"
	"github.com/layercache/cache/testutil/machine"
)

const (
	reportPath     = "../docs/scale.md"
	defaultRecords = "10000,30000,100000,300000,1000000"
)

type flags struct {
	records, json, dir, report, date, profiles string
}

func main() {
	if err := log.SetLevel("error"); err != nil { // containerd's parts warn whenever they are opened
		panic(err) // the level is a constant
	}
	if request := os.Getenv(childEnv); request != "" {
		os.Exit(exitStatus(runChild(context.Background(), request, os.Stdout)))
	}
	var f flags
	flag.StringVar(&f.records, "records", defaultRecords, "comma-separated `numbers` of records, multiples of 20")
	flag.StringVar(&f.json, "json", "", "write the figures to this `file` as JSON")
	flag.StringVar(&f.dir, "dir", os.TempDir(), "work below this `directory`, which decides on the disk that is measured")
	flag.StringVar(&f.report, "report", "", "write the report to this `file`; with the default numbers of records it is "+reportPath)
	flag.StringVar(&f.date, "date", "", "the `date` in the report; empty means today")
	flag.StringVar(&f.profiles, "profiles", "", "write a CPU profile of each phase, and the heap after opening, to this `directory`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, f, flag.Args())
	stop()
	os.Exit(exitStatus(err))
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "scale:", err)
	return 1
}

func run(ctx context.Context, f flags, args []string) (err error) {
	if len(args) > 0 {
		return errors.Errorf("unexpected argument %q", args[0])
	}
	sizes, err := parseRecords(f.records)
	if err != nil {
		return err
	}
	if f.report == "" && f.records == defaultRecords {
		f.report = reportPath
	}
	if f.report != "" { // find out before hours of work that its result has nowhere to go
		if _, err := os.Stat(filepath.Dir(f.report)); err != nil {
			return errors.Wrap(err, "the report")
		}
	}
	if f.date == "" {
		f.date = time.Now().UTC().Format(time.DateOnly)
	}
	r := report{Date: f.date, Commit: machine.Commit(), Command: strings.Join(os.Args[1:], " ")}
	if r.Machine, err = machine.Describe(f.dir); err != nil {
		return err
	}
	if r.Snapshotter, err = chooseSnapshotter(ctx, f.dir); err != nil {
		return err
	}
	for _, n := range sizes {
		figures, err := measureSize(ctx, f, r.Snapshotter, n)
		if err != nil {
			return errors.Wrapf(err, "%d records", n)
		}
		r.Sizes = append(r.Sizes, figures)
	}
	return output(f, r)
}

// parseRecords reads the sizes, in ascending order.
func parseRecords(list string) ([]int, error) {
	var sizes []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n <= 0 || n%(2*chain) != 0 {
			return nil, errors.Errorf("-records: %q is not a positive multiple of %d", s, 2*chain)
		}
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	return slices.Compact(sizes), nil
}

// chooseSnapshotter names the one that the library chooses here.
func chooseSnapshotter(ctx context.Context, dir string) (name string, err error) {
	tmp, err := os.MkdirTemp(dir, "scale-")
	if err != nil {
		return "", errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(tmp)) }()
	c, err := ours.Open(ctx, tmp, "", nil)
	if err != nil {
		return "", err
	}
	return c.Parts.SnapshotterName, c.Close()
}

// measureSize makes a cache and has a process of its own work on it for each kind of prune. There are two of them on the disk at most.
func measureSize(ctx context.Context, f flags, snapshotter string, records int) (s sizeFigures, err error) {
	s.Records = records
	tmp, err := os.MkdirTemp(f.dir, "scale-")
	if err != nil {
		return s, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(tmp)) }()
	logf("%d records: making the cache", records)
	made, start := filepath.Join(tmp, "cache"), time.Now()
	spec := fixture.Spec{Snapshotter: snapshotter, Records: records, Chain: chain, SizesKnown: true, UsesDiffer: true, HalfInternal: true}
	if err := fixture.Make(ctx, made, spec); err != nil {
		return s, errors.Wrap(err, "making the cache")
	}
	s.Make = since(start)
	logf("%d records: made in %s", records, measure.Duration(s.Make))
	for i, how := range prunes {
		dir := made
		if i < len(prunes)-1 {
			dir = filepath.Join(tmp, how)
			if err := fixture.Copy(dir, made); err != nil {
				return s, err
			}
		}
		logf("%d records: working on them, prune by %s", records, how)
		var r runFigures
		if err := measure.Ask(ctx, childEnv, request{Dir: dir, Snapshotter: snapshotter, Records: records, By: how, Profiles: f.profiles}, &r); err != nil {
			return s, errors.Wrapf(err, "prune by %s", how)
		}
		if err := os.RemoveAll(dir); err != nil {
			return s, errors.WithStack(err)
		}
		s.add(r, how)
	}
	return s, nil
}

// add adds the figures of a run. What every run does is taken from the first.
func (s *sizeFigures) add(r runFigures, how string) {
	if len(s.Prunes) == 0 {
		s.Files, s.Parts, s.Open, s.Slice, s.Walk, s.Latency = r.Files, r.Parts, r.Open, r.Slice, r.Walk, r.Latency
	} else {
		for _, p := range r.Latency {
			if p.During == how {
				s.Latency = append(s.Latency, p)
			}
		}
	}
	s.Prunes = append(s.Prunes, r.Prune)
}

func logf(format string, args ...any) {
	fmt.Fprintln(os.Stderr, time.Now().UTC().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

func output(f flags, r report) error {
	if _, err := os.Stdout.WriteString(r.table()); err != nil {
		return errors.WithStack(err)
	}
	if f.json != "" {
		dt, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return errors.WithStack(err)
		}
		if err := os.WriteFile(f.json, append(dt, '\n'), 0o644); err != nil {
			return errors.WithStack(err)
		}
	}
	if f.report == "" {
		return nil
	}
	return errors.WithStack(os.WriteFile(f.report, []byte(r.markdown()), 0o644))
}
