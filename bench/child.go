package main

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/syncs"
	"github.com/layercache/cache/testutil/fault"
)

// Counting changes what it looks at: wrapped parts are slower, and a process that counts its system
// calls cannot stop to. So each side is counted in a process of its own, which runs this
// program again with the request in the environment, and never in the one that measures time.

// childEnv holds the request in a counting process.
const childEnv = "LAYERCACHE_BENCH_COUNT"

// countRequest asks for the counts of one work of one side.
type countRequest struct {
	Work        string // name of a countedWork, workStart or workPrune
	Side        string
	Dir         string
	Snapshotter string
	Warm, Ops   int // calls before counting begins, and calls counted
	Goroutines  int
}

// counts are per operation.
type counts struct {
	// Fdatasync and Fsync are medians of single operations if they run one after the other, so
	// that growth of a file or a write that is due just then does not blur them; else means.
	Fdatasync, Fsync float64
	// Calls of the snapshotter, content store and lease manager: the mean of all. Content is the content store's part.
	Calls, Content float64
	// Allocs are what testing.AllocsPerRun says; not counted with several goroutines.
	Allocs float64
}

// countedWork prepares a side and returns the operation to count. Call i gets i.
type countedWork func(ctx context.Context, s side) (op func(ctx context.Context, i int) error, err error)

var countedWorks = map[string]countedWork{
	workGetRelease: prepareGetRelease,
	workCommit:     prepareCommit,
	workBlobMiss:   prepareBlobMiss,
	workLazyHit:    prepareBlobHit(false),
	workBlobHit:    prepareBlobHit(true),
	workDeepChain:  prepareDeepChain(deepChain),
	workQuickChain: prepareDeepChain(quickChain),
}

// count counts one work on both sides.
func (e *env) count(ctx context.Context, r countRequest) (peer, ours counts, err error) {
	for _, s := range []struct {
		name string
		into *counts
	}{{sidePeer, &peer}, {sideOurs, &ours}} {
		r.Side, r.Snapshotter = s.name, e.snapshotter
		if *s.into, err = e.countSide(ctx, r); err != nil {
			return counts{}, counts{}, errors.Wrapf(err, "counting %s of %s", r.Work, s.name)
		}
		e.logf("  counts of %s, per operation: %+v", s.name, *s.into)
	}
	return peer, ours, nil
}

func (e *env) countSide(ctx context.Context, r countRequest) (c counts, err error) {
	if r.Dir, err = os.MkdirTemp(e.dir, "count-"); err != nil {
		return counts{}, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(r.Dir)) }()
	return c, measure.Ask(ctx, childEnv, r, &c)
}

// runChild is the counting process.
func runChild(ctx context.Context, request string, out io.Writer) error {
	var r countRequest
	if err := json.Unmarshal([]byte(request), &r); err != nil {
		return errors.Wrap(err, childEnv)
	}
	switch r.Work {
	case workStart:
		return answer(ctx, r, out, countStart)
	case workPrune:
		return answer(ctx, r, out, countPrune)
	}
	prepare := countedWorks[r.Work]
	if prepare == nil {
		return errors.Errorf("work %q is unknown", r.Work)
	}
	c, err := countCalls(ctx, r, prepare)
	if err != nil {
		return err
	}
	// From here on, this process counts its system calls.
	if err := countSyncs(ctx, r, prepare, &c); err != nil {
		return err
	}
	return errors.WithStack(json.NewEncoder(out).Encode(c))
}

// answer writes what one of the works with figures of their own has counted.
func answer[Figures any](ctx context.Context, r countRequest, out io.Writer, count func(context.Context, countRequest) (Figures, error)) error {
	f, err := count(ctx, r)
	if err != nil {
		return err
	}
	return errors.WithStack(json.NewEncoder(out).Encode(f))
}

// onSide runs fn with the operation on a side opened in the named subdirectory.
func onSide(ctx context.Context, r countRequest, sub string, calls *fault.Faults, prepare countedWork, fn func(op func(context.Context, int) error) error) (err error) {
	s, err := openSide(ctx, r.Side, filepath.Join(r.Dir, sub), r.Snapshotter, calls)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, s.Close()) }()
	op, err := prepare(ctx, s)
	if err != nil {
		return err
	}
	return fn(op)
}

// countCalls counts calls of the parts, and allocations on parts that are not wrapped.
func countCalls(ctx context.Context, r countRequest, prepare countedWork) (counts, error) {
	var c counts
	calls := fault.New()
	err := onSide(ctx, r, "calls", calls, prepare, func(op func(context.Context, int) error) error {
		calls.Reset()
		if err := spread(ctx, r.Ops, max(1, r.Goroutines), op); err != nil {
			return err
		}
		n := 0
		for _, parts := range []string{"snapshots.*", "content.*", "leases.*"} {
			n += calls.Count(parts)
		}
		c.Calls = float64(n) / float64(r.Ops)
		c.Content = float64(calls.Count("content.*")) / float64(r.Ops)
		return nil
	})
	if err != nil || r.Goroutines > 1 {
		return c, err
	}
	err = onSide(ctx, r, "allocs", nil, prepare, func(op func(context.Context, int) error) error {
		i, failed := 0, error(nil)
		c.Allocs = testing.AllocsPerRun(r.Ops, func() {
			if err := op(ctx, i); err != nil {
				failed = err
			}
			i++
		})
		return failed
	})
	return c, err
}

// countSyncs counts fdatasync and fsync.
func countSyncs(ctx context.Context, r countRequest, prepare countedWork, c *counts) error {
	return onSide(ctx, r, "syncs", nil, prepare, func(op func(context.Context, int) error) error {
		if err := spread(ctx, r.Warm, max(1, r.Goroutines), op); err != nil {
			return err
		}
		counter, err := syncs.Started()
		if err != nil {
			return err
		}
		if r.Goroutines > 1 {
			return meanSyncs(ctx, r, counter, op, c)
		}
		var fdatasync, fsync []float64
		for i := range r.Ops {
			before, err := counter.Totals()
			if err != nil {
				return err
			}
			if err := op(ctx, r.Warm+i); err != nil {
				return err
			}
			after, err := counter.Totals()
			if err != nil {
				return err
			}
			fdatasync = append(fdatasync, float64(after.Fdatasync-before.Fdatasync))
			fsync = append(fsync, float64(after.Fsync-before.Fsync))
		}
		c.Fdatasync, c.Fsync = median(fdatasync), median(fsync)
		return nil
	})
}

func meanSyncs(ctx context.Context, r countRequest, counter *syncs.Counter, op func(context.Context, int) error, c *counts) error {
	before, err := counter.Totals()
	if err != nil {
		return err
	}
	if err := spread(ctx, r.Ops, r.Goroutines, op); err != nil {
		return err
	}
	after, err := counter.Totals()
	if err != nil {
		return err
	}
	c.Fdatasync = float64(after.Fdatasync-before.Fdatasync) / float64(r.Ops)
	c.Fsync = float64(after.Fsync-before.Fsync) / float64(r.Ops)
	return nil
}
