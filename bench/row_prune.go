package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"runtime"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/pruning"
	"github.com/layercache/cache/bench/syncs"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/fixture"
)

// pruner is a side that prunes.
type pruner interface {
	side
	Prune(ctx context.Context, p pruning.Policy) (pruning.Result, error)
}

// pruneWork is a prune of a prepared directory.
type pruneWork struct {
	// records are in the directory, of which gone go.
	records, gone int
	// uncollected leaves out the garbage collection, whose time is not in the figure anyway.
	uncollected bool
}

// spec is the directory. A budget has more to put in order if no two records are used alike.
func (w pruneWork) spec() fixture.Spec {
	return fixture.Spec{Records: w.records, Chain: chain, SizesKnown: true, UsesDiffer: true}
}

func (w pruneWork) policy() pruning.Policy {
	if w.gone == w.records {
		return pruning.Policy{}
	}
	// Half a record more than what is to stay: the peer goes on at a budget that is met to the byte (quirk Q66).
	return pruning.Policy{Keep: int64(w.records-w.gone)*fixture.SnapshotSize + fixture.SnapshotSize/2}
}

// check holds a prune to what it was to do.
func (w pruneWork) check(ctx context.Context, s side, r pruning.Result) error {
	want := pruning.Result{Records: w.gone, Bytes: int64(w.gone) * fixture.SnapshotSize}
	if r != want {
		return errors.Errorf("%+v were reported instead of %+v", r, want)
	}
	return checkSide(ctx, s, w.records-w.gone)
}

// peerOnce is how many samples the peer gives of a prune that takes it minutes, and peerFew of one that takes it half a minute.
const (
	peerOnce = 1
	peerFew  = 3
)

// pruneBudgetRow is row 10: a prune that ends when enough is gone.
func pruneBudgetRow() row {
	return row{10, "Prune in budget mode", func(ctx context.Context, e *env) ([]line, error) {
		w := pruneWork{records: e.scale(10_000, 100), gone: e.scale(500, 20)}
		l := line{
			Work: fmt.Sprintf("Prune in budget mode, %d of %d records, garbage collection aside", w.gone, w.records), Unit: unitTime,
			MinRatio: 200, Target: ">= 200x",
		}
		return e.pruneLines(ctx, w, l, peerFew)
	}}
}

// pruneAllRow is row 11: a prune of everything.
func pruneAllRow() row {
	return row{11, "Prune of all records", func(ctx context.Context, e *env) ([]line, error) {
		n := e.scale(10_000, 120)
		w := pruneWork{records: n, gone: n}
		l := line{
			Work: fmt.Sprintf("Prune of all %d records, garbage collection aside", n), Unit: unitTime,
			MinRatio: 50, Target: ">= 50x; <= 1 fdatasync per 8 records",
		}
		lines, err := e.pruneLines(ctx, w, l, peerOnce)
		if err != nil {
			return nil, err
		}
		few := e.scale(500, 50) // the peer's counts per record do not depend on how many there are, its time does
		p, err := e.pruneFigures(ctx, sidePeer, pruneWork{records: few, gone: few})
		if err != nil {
			return nil, err
		}
		o, err := e.pruneFigures(ctx, sideOurs, w)
		if err != nil {
			return nil, err
		}
		lines[0].Counts = []count{
			{What: fmt.Sprintf("fdatasync per record, Prune of all (peer: %d records, ours: %d) without garbage collection", few, n), Peer: &p.Fdatasync, Ours: &o.Fdatasync, Limit: number(1. / 8)},
			{What: "fsync per record, the same", Peer: &p.Fsync, Ours: &o.Fsync},
			{What: "calls of snapshotter, content store and leases per record, the same", Peer: &p.Calls, Ours: &o.Calls},
		}
		return lines, nil
	}}
}

// pruneLines measures a prune. The time of the collection with which it ends is the backend's, that is the same code on
// both sides, and comes in a line of its own.
func (e *env) pruneLines(ctx context.Context, w pruneWork, l line, peerSamples int) ([]line, error) {
	l.Work += samplesOfPeer(peerSamples, e.pairs)
	collected := line{Work: "the same and the garbage collection at its end", Unit: unitTime, Target: "for comparison"}
	var floor line
	err := e.withFixture(ctx, w.spec(), func(peerDir, oursDir string) (err error) {
		var peerAll, oursAll []float64
		l.Peer, l.Ours, err = e.alternateSlow(ctx, unitTime, peerSamples,
			e.pruneSample(sidePeer, peerDir, w, &peerAll), e.pruneSample(sideOurs, oursDir, w, &oursAll))
		if err != nil {
			return err
		}
		collected.Peer, collected.Ours = median(peerAll), median(oursAll[1:]) // the first of ours warms up
		floor, err = e.pruneFloorLine(ctx, w, oursDir)
		return err
	})
	return []line{l, collected, floor}, err
}

func samplesOfPeer(samples, pairs int) string {
	switch {
	case samples >= pairs:
		return ""
	case samples == 1:
		return " (peer: 1 sample)"
	}
	return fmt.Sprintf(" (peer: %d samples)", samples)
}

// pruneSample times a prune of a copy of a directory, up to where it begins to collect garbage. It adds the time of the whole
// to all.
func (e *env) pruneSample(name, dir string, w pruneWork, all *[]float64) sample {
	return func(ctx context.Context) (took float64, err error) {
		err = e.onPruned(ctx, name, dir, nil, func(s pruner) error {
			runtime.GC()
			start, policy := time.Now(), w.policy()
			policy.Collect = func(run func() error) error {
				took = perOp(time.Since(start), 1)
				if w.uncollected {
					return nil
				}
				return run()
			}
			r, err := s.Prune(ctx, policy)
			*all = append(*all, perOp(time.Since(start), 1))
			if err != nil {
				return err
			}
			if took == 0 {
				return errors.New("no garbage was collected")
			}
			return errors.Wrapf(w.check(ctx, s, r), "wrong result of %s", name)
		})
		return took, err
	}
}

// onPruned runs fn on a manager on a copy of a directory, since pruning uses it up.
func (e *env) onPruned(ctx context.Context, name, dir string, calls *fault.Faults, fn func(s pruner) error) error {
	return e.copied(dir, func(at string) error { return withPruner(ctx, name, at, e.snapshotter, calls, fn) })
}

func withPruner(ctx context.Context, name, dir, snapshotter string, calls *fault.Faults, fn func(s pruner) error) (err error) {
	s, err := openSide(ctx, name, dir, snapshotter, calls)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, s.Close()) }()
	p, ok := s.(pruner)
	if !ok {
		return errors.Errorf("%s does not prune", name)
	}
	return fn(p)
}

// workPrune asks for the figures of a prune of all records in the directory of the request.
const workPrune = "prune"

// pruneFigures are what a prune takes per record, its garbage collection aside.
type pruneFigures struct{ Fdatasync, Fsync, Calls float64 }

// pruneFigures asks a process of its own for a side's figures.
func (e *env) pruneFigures(ctx context.Context, name string, w pruneWork) (f pruneFigures, err error) {
	err = e.withFixture(ctx, w.spec(), func(peerDir, oursDir string) error {
		dir := oursDir
		if name == sidePeer {
			dir = peerDir
		}
		return measure.Ask(ctx, childEnv, countRequest{Work: workPrune, Side: name, Dir: dir, Snapshotter: e.snapshotter, Ops: w.records}, &f)
	})
	if err == nil {
		e.logf("  counts of %s, per record: %+v", name, f)
	}
	return f, errors.Wrapf(err, "counting a prune of %s", name)
}

// countPrune is the child's part.
func countPrune(ctx context.Context, r countRequest) (f pruneFigures, err error) {
	calls, w := fault.New(), pruneWork{records: r.Ops, gone: r.Ops}
	err = withPruner(ctx, r.Side, r.Dir, r.Snapshotter, calls, func(s pruner) error {
		counter, err := syncs.Started() // from here on, this process counts its system calls
		if err != nil {
			return err
		}
		calls.Reset()
		before, err := counter.Totals()
		if err != nil {
			return err
		}
		policy, collections := w.policy(), 0
		policy.Collect = func(func() error) error {
			collections++
			return nil
		}
		done, err := s.Prune(ctx, policy)
		if err != nil {
			return err
		}
		after, err := counter.Totals()
		if err != nil {
			return err
		}
		if collections != 1 {
			return errors.Errorf("garbage was to be collected %d times", collections)
		}
		n := 0
		for _, parts := range []string{"snapshots.*", "content.*", "leases.*"} {
			n += calls.Count(parts)
		}
		f = pruneFigures{
			Fdatasync: float64(after.Fdatasync-before.Fdatasync) / float64(r.Ops),
			Fsync:     float64(after.Fsync-before.Fsync) / float64(r.Ops),
			Calls:     float64(n) / float64(r.Ops),
		}
		return errors.Wrapf(w.check(ctx, s, done), "wrong result of %s", r.Side)
	})
	return f, err
}
