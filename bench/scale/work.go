package main

import (
	"context"
	"crypto/sha256"
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/ours"
	"github.com/layercache/cache/bench/pruning"
	"github.com/layercache/cache/bench/syncs"
	"github.com/layercache/cache/testutil/fixture"
	"github.com/layercache/cache/usage"
)

// chain is the length of the chains that the records form.
const chain = 10

// The prunes to half: by a budget, and of everything that a filter lets through.
const (
	byBudget = "budget"
	byFilter = "filter"
)

var prunes = []string{byBudget, byFilter}

// inPeace is how long a record is got and released with nothing else to do, at most a call a Pace.
const inPeace = 2 * time.Second

// runFigures are those of one cache. Times are in nanoseconds, heap and files in bytes.
type runFigures struct {
	// Files are the sizes of the databases, in the order of fixture.Databases.
	Files []int64
	// Parts is how long opening the databases took.
	Parts       float64
	Open        openFigures
	Slice, Walk listFigures
	Prune       pruneFigures
	Latency     []latency
}

// openFigures are those of NewManager, the parts aside.
type openFigures struct {
	Took float64
	// Grown is how much the heap grew, garbage included, and Kept what of that is still in use.
	Grown, Kept float64
	// Allocs are counted, AllocBytes added up.
	Allocs, AllocBytes float64
}

// listFigures are those of one way to list everything.
type listFigures struct {
	Took float64
	// Peak is how much the heap grew meanwhile, garbage included.
	Peak float64
}

// pruneFigures are those of a prune to half, garbage collection aside.
type pruneFigures struct {
	By               string
	Gone             int
	Took             float64
	Peak             float64
	Fdatasync, Fsync int64
	// Files are the sizes of the databases afterwards.
	Files []int64
	// Reopen is how long NewManager took on what is left.
	Reopen float64
}

// latency is how long Get and Release took during something, and a call that does nothing at the same time.
type latency struct {
	During                             string
	Calls                              int
	P50, P99, Max                      float64
	NothingP50, NothingP99, NothingMax float64
}

// worker is one run.
type worker struct {
	request
	*ours.Cache
	// spare is the record that is got all the time.
	spare   string
	figures runFigures
}

func since(start time.Time) float64 { return float64(time.Since(start).Nanoseconds()) }

// work opens, lists and prunes the cache of a request, and verifies what comes of it.
func work(ctx context.Context, r request) (f runFigures, err error) {
	if !slices.Contains(prunes, r.By) {
		return f, errors.Errorf("a prune by %q is unknown", r.By)
	}
	w := &worker{request: r}
	if w.figures.Files, err = fileSizes(r.Dir); err != nil {
		return f, err
	}
	left, err := w.workOpened(ctx)
	if err != nil {
		return f, err
	}
	if w.figures.Prune.Files, err = fileSizes(r.Dir); err != nil {
		return f, err
	}
	return w.figures, errors.Wrap(w.reopen(ctx, left), "opening it again")
}

func fileSizes(dir string) ([]int64, error) {
	var sizes []int64
	for _, name := range fixture.Databases() {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, errors.WithStack(err)
		}
		sizes = append(sizes, fi.Size())
	}
	return sizes, nil
}

// workOpened is everything up to Close. It returns what is left.
func (w *worker) workOpened(ctx context.Context) (left census, err error) {
	start := time.Now()
	if w.Cache, err = ours.Prepare(ctx, w.Dir, w.Snapshotter, nil); err != nil {
		return left, err
	}
	defer func() { err = stderrors.Join(err, w.Close()) }()
	w.figures.Parts = since(start)
	if err := w.open(); err != nil {
		return left, err
	}
	if w.spare, err = w.NewLayer(ctx); err != nil {
		return left, err
	}
	if err := w.list(ctx); err != nil {
		return left, err
	}
	return w.prune(ctx)
}

// open times NewManager.
func (w *worker) open() error {
	before := measure.HeapInUse()
	var first, last runtime.MemStats
	runtime.ReadMemStats(&first)
	start := time.Now()
	if err := w.profiled("open", w.Start); err != nil {
		return err
	}
	f := &w.figures.Open
	f.Took = since(start)
	runtime.ReadMemStats(&last)
	f.Grown = float64(last.HeapAlloc) - before
	f.Allocs, f.AllocBytes = float64(last.Mallocs-first.Mallocs), float64(last.TotalAlloc-first.TotalAlloc)
	f.Kept = measure.HeapInUse() - before
	return w.heapProfile("open")
}

// list lists everything both ways.
func (w *worker) list(ctx context.Context) error {
	err := w.meanwhile(ctx, "nothing else", func() error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(inPeace, time.Duration(w.Records)*measure.Pace)):
			return nil
		}
	})
	if err != nil {
		return err
	}
	var listed []*usage.Info
	f := &w.figures.Slice
	err = w.timed(ctx, "DiskUsage", &f.Took, &f.Peak, func() (err error) {
		listed, err = w.DiskUsage(ctx, usage.DiskUsageInfo{})
		return err
	})
	if err != nil {
		return err
	}
	var c census
	for _, u := range listed {
		if err := c.add(u, w.spare); err != nil {
			return err
		}
	}
	if err := c.check(w.Records+1, w.spare); err != nil {
		return errors.Wrap(err, "DiskUsage")
	}
	clear(listed)
	listed = nil
	walked := 0
	f = &w.figures.Walk
	err = w.timed(ctx, "WalkUsage", &f.Took, &f.Peak, func() error {
		return w.WalkUsage(ctx, usage.DiskUsageInfo{}, func(*usage.Info) error {
			walked++
			return nil
		})
	})
	if err == nil && walked != w.Records+1 {
		err = errors.Errorf("WalkUsage told of %d records instead of %d", walked, w.Records+1)
	}
	return err
}

// timed runs fn with everything about it measured.
func (w *worker) timed(ctx context.Context, phase string, took, peak *float64, fn func() error) error {
	return w.meanwhile(ctx, phase, func() (err error) {
		*peak, err = heapPeak(func() error {
			start := time.Now()
			err := w.profiled(phase, fn)
			*took = since(start)
			return err
		})
		return err
	})
}

// prune prunes to half.
func (w *worker) prune(ctx context.Context) (left census, err error) {
	before, err := w.census(ctx)
	if err != nil {
		return left, err
	}
	collections := 0
	policy := pruning.Policy{Collect: func(func() error) error {
		collections++
		return nil
	}}
	gone := w.Records / 2
	if w.By == byBudget {
		policy.Keep = before.bytes - int64(gone)*fixture.SnapshotSize
	} else {
		policy.Type = string(usage.TypeInternal)
	}
	counter, err := syncs.Started()
	if err != nil {
		return left, err
	}
	first, err := counter.Totals()
	if err != nil {
		return left, err
	}
	f := &w.figures.Prune
	f.By = w.By
	var result pruning.Result
	err = w.timed(ctx, w.By, &f.Took, &f.Peak, func() (err error) {
		result, err = w.Cache.Prune(ctx, policy)
		return err
	})
	if err != nil {
		return left, err
	}
	last, err := counter.Totals()
	if err != nil {
		return left, err
	}
	f.Gone, f.Fdatasync, f.Fsync = result.Records, last.Fdatasync-first.Fdatasync, last.Fsync-first.Fsync
	if want := (pruning.Result{Records: gone, Bytes: int64(gone) * fixture.SnapshotSize}); result != want || collections != 1 {
		return left, errors.Errorf("%+v was pruned instead of %+v, and garbage was to be collected %d times", result, want, collections)
	}
	if left, err = w.census(ctx); err != nil {
		return left, err
	}
	if err := left.check(w.Records+1-gone, w.spare); err != nil {
		return left, errors.Wrap(err, "after the prune")
	}
	if w.By == byFilter && left.internal != 0 {
		return left, errors.Errorf("%d records are left that the filter lets through", left.internal)
	}
	if left.bytes != before.bytes-result.Bytes {
		return left, errors.Errorf("%d bytes are left of %d", left.bytes, before.bytes)
	}
	return left, nil
}

// reopen holds the cache to what was left in it.
func (w *worker) reopen(ctx context.Context, left census) (err error) {
	if w.Cache, err = ours.Prepare(ctx, w.Dir, w.Snapshotter, nil); err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, w.Close()) }()
	start := time.Now()
	if err := w.Start(); err != nil {
		return err
	}
	w.figures.Prune.Reopen = since(start)
	now, err := w.census(ctx)
	if err != nil {
		return err
	}
	if err := now.check(len(left.ids), w.spare); err != nil {
		return err
	}
	if now.digest() != left.digest() || now.bytes != left.bytes {
		return errors.Errorf("%d records of %d bytes are others than the %d of %d bytes that were left", len(now.ids), now.bytes, len(left.ids), left.bytes)
	}
	return nil
}

// census is what a cache says that it has.
type census struct {
	ids      []string
	parents  []string
	bytes    int64
	internal int
}

func (w *worker) census(ctx context.Context) (c census, err error) {
	err = w.WalkUsage(ctx, usage.DiskUsageInfo{}, func(u *usage.Info) error { return c.add(u, w.spare) })
	return c, err
}

// add takes in one record. Nobody but the spare one may be in use.
func (c *census) add(u *usage.Info, spare string) error {
	if u.InUse && u.ID != spare {
		return errors.Errorf("record %q is in use", u.ID)
	}
	c.ids = append(c.ids, u.ID)
	c.parents = append(c.parents, u.Parents...)
	c.bytes += u.Size
	if u.RecordType == usage.TypeInternal {
		c.internal++
	}
	return nil
}

// check fails unless there are exactly so many records, each of them once, the spare one and all parents among them.
func (c *census) check(records int, spare string) error {
	if len(c.ids) != records {
		return errors.Errorf("%d records instead of %d", len(c.ids), records)
	}
	there := make(map[string]bool, len(c.ids))
	for _, id := range c.ids {
		there[id] = true
	}
	if len(there) != records {
		return errors.Errorf("only %d of %d records are distinct", len(there), records)
	}
	for _, id := range append(c.parents, spare) {
		if !there[id] {
			return errors.Errorf("record %q is missing", id)
		}
	}
	return nil
}

// digest tells apart two sets of records.
func (c *census) digest() [sha256.Size]byte {
	slices.Sort(c.ids)
	h := sha256.New()
	for _, id := range c.ids {
		fmt.Fprintln(h, id)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
