package main

import (
	"context"
	"fmt"

	"github.com/pkg/errors"
)

// workers is the number of goroutines of the rows that have several.
const workers = 8

const workGetRelease = "get-release"

// prepareGetRelease makes one record to get again and again.
func prepareGetRelease(ctx context.Context, s side) (func(context.Context, int) error, error) {
	id, err := s.NewLayer(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) error { return s.GetRelease(ctx, id) }, nil
}

// getReleaseRow is row 1: Get and Release of an idle record, one goroutine.
func getReleaseRow() row {
	const title = "Get + Release of an idle record, 1 goroutine"
	return row{1, title, func(ctx context.Context, e *env) ([]line, error) {
		l := line{Work: title, Unit: unitTime, MinRatio: 100, Target: ">= 100x; 0 fdatasync, 0 backend calls, <= 4 allocs"}
		err := e.withBoth(ctx, func(b both) (err error) {
			peer, err := prepareGetRelease(ctx, b.peer)
			if err != nil {
				return err
			}
			ours, err := prepareGetRelease(ctx, b.ours)
			if err != nil {
				return err
			}
			n := e.scale(1000, 100)
			if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, timed(n, 1, peer), timed(n, 1, ours)); err != nil {
				return err
			}
			return b.check(ctx, 1)
		})
		if err != nil {
			return nil, err
		}
		p, o, err := e.count(ctx, countRequest{Work: workGetRelease, Warm: 10, Ops: e.scale(200, 50)})
		if err != nil {
			return nil, err
		}
		l.Counts = []count{
			{What: "fdatasync per Get + Release", Peer: &p.Fdatasync, Ours: &o.Fdatasync, Limit: number(0)},
			{What: "calls of snapshotter, content store and leases per Get + Release", Peer: &p.Calls, Ours: &o.Calls, Limit: number(0)},
			{What: "allocations per Get + Release", Peer: &p.Allocs, Ours: &o.Allocs, Limit: number(4)},
		}
		return []line{l}, nil
	}}
}

// getReleaseParallelRow is row 2: the same by several goroutines over many records.
func getReleaseParallelRow() row {
	title := fmt.Sprintf("Get + Release, %d goroutines over 1 k records", workers)
	return row{2, title, func(ctx context.Context, e *env) ([]line, error) {
		records := e.scale(1000, 50)
		l := line{Work: title, Unit: unitTime, MinRatio: 200, Target: ">= 200x"}
		if e.quick {
			l.Work = fmt.Sprintf("Get + Release, %d goroutines over %d records", workers, records)
		}
		scaling := line{
			Work: fmt.Sprintf("throughput of ours: 1 goroutine (in column peer) and %d", workers),
			Unit: unitTime, MinRatio: 1, Target: ">= 1x",
		}
		err := e.withBoth(ctx, func(b both) (err error) {
			peer, err := prepareMany(ctx, e, b.peer, records)
			if err != nil {
				return err
			}
			ours, err := prepareMany(ctx, e, b.ours, records)
			if err != nil {
				return err
			}
			n := e.scale(4000, 200)
			if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, timed(n, workers, peer), timed(n, workers, ours)); err != nil {
				return err
			}
			n = e.scale(1_000_000, 10_000)
			e.logf("  ours alone, 1 goroutine (peer) against %d (ours)", workers)
			scaling.Peer, scaling.Ours, err = e.alternate(ctx, unitTime, timed(n, 1, ours), timed(n, workers, ours))
			if err != nil {
				return err
			}
			return b.check(ctx, records)
		})
		if err != nil {
			return nil, err
		}
		return []line{l, scaling}, nil
	}}
}

// prepareMany makes records and gets them in an order that jumps, so that neighbours in time are
// not neighbours in the database.
func prepareMany(ctx context.Context, e *env, s side, records int) (func(context.Context, int) error, error) {
	e.logf("  making %d records", records)
	ids := make([]string, records)
	seen := make(map[string]bool, records)
	for i := range ids {
		id, err := s.NewLayer(ctx)
		if err != nil {
			return nil, err
		}
		if seen[id] {
			return nil, errors.Errorf("record ID %q was given twice", id)
		}
		ids[i], seen[id] = id, true
	}
	const stride = 7919 // a prime greater than any number of records here, thus without common divisor
	return func(ctx context.Context, i int) error { return s.GetRelease(ctx, ids[i*stride%len(ids)]) }, nil
}
