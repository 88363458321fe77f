package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"sync"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/pruning"
)

// latencyFloor is what a Get and Release may take at any time, in nanoseconds.
const latencyFloor = 1e6

// latencies are 99th percentiles of Get and Release, in nanoseconds.
type latencies struct {
	idle, pruning, collecting []float64
	// nothing are those of a call without any work at the same time as pruning.
	nothing []float64
}

// pruneLatencyRow is row 12: getting a record that nobody prunes while all others go.
func pruneLatencyRow() row {
	return row{12, "Get + Release while all else is pruned", func(ctx context.Context, e *env) ([]line, error) {
		records := e.scale(10_000, 100)
		work := fmt.Sprintf("p99 of Get + Release while all other %d records are pruned", records)
		lines := []line{
			{Work: work, Unit: unitTime, Target: "<= 2x its idle p99 or 1 ms"},
			{Work: "the machine alone: a call that does nothing, meanwhile", Unit: unitTime, Target: "for comparison"},
			{Work: "p99 of Get + Release before the prune", Unit: unitTime, Target: "for comparison"},
			{Work: "p99 of Get + Release while it collects garbage, ours alone", Unit: unitTime, Target: "for comparison"},
		}
		// The peer's prune takes minutes, in which each batch is much like the one before.
		limit := time.Duration(e.scale(10, 2)) * time.Second
		w := pruneWork{records: records, gone: records}
		err := e.withFixture(ctx, w.spec(), func(peerDir, oursDir string) (err error) {
			var p, o latencies
			lines[0].Peer, lines[0].Ours, err = e.alternate(ctx, unitTime,
				e.latencySample(sidePeer, peerDir, records, limit, &p), e.latencySample(sideOurs, oursDir, records, 0, &o))
			if err != nil {
				return err
			}
			lines[1].Peer, lines[1].Ours = median(p.nothing[1:]), median(o.nothing[1:]) // the first of each warms up
			lines[2].Peer, lines[2].Ours = median(p.idle[1:]), median(o.idle[1:])
			lines[3].Ours = median(o.collecting[1:])
			lines[0].MaxOurs = max(latencyFloor, 2*lines[2].Ours)
			return nil
		})
		return lines, err
	}}
}

// latencySample gets a record at a steady pace, first in peace and then while all others are pruned, and returns the
// latter's 99th percentile. The prune is broken off at the limit, if there is one.
func (e *env) latencySample(name, dir string, records int, limit time.Duration, all *latencies) sample {
	return func(ctx context.Context) (p99 float64, err error) {
		err = e.onPruned(ctx, name, dir, nil, func(s pruner) error {
			id, err := s.NewLayer(ctx)
			if err != nil {
				return err
			}
			if err := settle(ctx, s, records+1); err != nil {
				return errors.Wrapf(err, "wrong result of %s", name)
			}
			op := func(ctx context.Context) error { return s.GetRelease(ctx, id) }
			rest := make(chan struct{})
			time.AfterFunc(time.Duration(e.scale(2000, 50))*time.Millisecond, func() { close(rest) })
			idle, err := measure.Paced(ctx, rest, op)
			if err != nil {
				return err
			}
			run := startPrune(ctx, s, id, limit)
			nothing := make(chan []float64, 1)
			go func() {
				took, _ := measure.Paced(ctx, run.pruned, func(context.Context) error { return nil })
				nothing <- took
			}()
			during, err := measure.Paced(ctx, run.pruned, op)
			if err != nil {
				return stderrors.Join(err, run.wait())
			}
			all.nothing = append(all.nothing, measure.Percentile(<-nothing, 99))
			collecting, err := measure.Paced(ctx, run.ended, op)
			if err := stderrors.Join(err, run.wait()); err != nil {
				return err
			}
			p99 = measure.Percentile(during, 99)
			all.idle = append(all.idle, measure.Percentile(idle, 99))
			all.pruning = append(all.pruning, p99)
			all.collecting = append(all.collecting, measure.Percentile(collecting, 99))
			e.logf("  %s: %d calls in peace, %d while %d records went, %d while garbage was collected",
				name, len(idle), len(during), run.result.Records, len(collecting))
			return errors.Wrapf(run.check(ctx, s, records), "wrong result of %s", name)
		})
		return p99, err
	}
}

// settle waits until there are exactly so many records, none in use: the peer removes the other half of a new record
// after the call that made it has returned.
func settle(ctx context.Context, s side, records int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := checkSide(ctx, s, records)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// pruneRun is a prune of all records but one, in a goroutine.
type pruneRun struct {
	limit time.Duration
	// pruned is closed when the prune ends or begins to collect garbage, ended when it ends.
	pruned, ended chan struct{}
	result        pruning.Result
	err           error
}

func startPrune(ctx context.Context, s pruner, spare string, limit time.Duration) *pruneRun {
	r := &pruneRun{limit: limit, pruned: make(chan struct{}), ended: make(chan struct{})}
	pruned := sync.OnceFunc(func() { close(r.pruned) })
	go func() {
		defer close(r.ended)
		defer pruned()
		if limit != 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		r.result, r.err = s.Prune(ctx, pruning.Policy{Spare: spare, Collect: func(run func() error) error {
			pruned()
			return run()
		}})
	}()
	return r
}

// wait waits for the end. That the limit was reached is no error.
func (r *pruneRun) wait() error {
	<-r.ended
	if r.limit != 0 && errors.Is(r.err, context.DeadlineExceeded) {
		return nil
	}
	return r.err
}

// check fails unless everything has gone that was reported, and without a limit everything but one record.
func (r *pruneRun) check(ctx context.Context, s side, records int) error {
	if r.result.Records == 0 || r.limit == 0 && r.result.Records != records {
		return errors.Errorf("%d of %d records were pruned", r.result.Records, records)
	}
	return checkSide(ctx, s, records+1-r.result.Records)
}
