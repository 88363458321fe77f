package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/ours"
)

const workCommit = "commit"

func prepareCommit(_ context.Context, s side) (func(context.Context, int) error, error) {
	return func(ctx context.Context, _ int) error {
		_, err := s.NewLayer(ctx)
		return err
	}, nil
}

// commitRow is row 3: making a record that stays, one after the other.
func commitRow() row {
	const title = "New + Commit + Finalize + Release (retain), sequential"
	return row{3, title, func(ctx context.Context, e *env) ([]line, error) {
		l := line{Work: title + ", " + e.snapshotter, Unit: unitTime, MinRatio: 2.5, Target: ">= 2.5x; <= 14 fdatasync"}
		if err := measureCommit(ctx, e, &l, 1); err != nil {
			return nil, err
		}
		p, o, err := e.count(ctx, countRequest{Work: workCommit, Warm: e.scale(200, 30), Ops: e.scale(100, 21)})
		if err != nil {
			return nil, err
		}
		l.Counts = []count{
			{What: "fdatasync per New + Commit + Finalize + Release", Peer: &p.Fdatasync, Ours: &o.Fdatasync},
			{What: "fsync per New + Commit + Finalize + Release", Peer: &p.Fsync, Ours: &o.Fsync},
			{What: "calls of snapshotter, content store and leases, the same", Peer: &p.Calls, Ours: &o.Calls},
			{What: "allocations, the same", Peer: &p.Allocs, Ours: &o.Allocs},
		}
		// The bound is that of overlayfs: native's writes are slow and share no transaction.
		if e.snapshotter == "overlayfs" {
			l.Counts[0].Limit = number(14)
		}
		work := fmt.Sprintf("the disk alone: %s and %s fdatasync, directories of a snapshot", plain(&p.Fdatasync), plain(&o.Fdatasync))
		floor, err := floorLine(ctx, e, work, p.Fdatasync, o.Fdatasync)
		if err != nil {
			return nil, err
		}
		bare, err := bareLine(ctx, e, 1)
		if err != nil {
			return nil, err
		}
		return []line{l, floor, bare}, nil
	}}
}

// commitParallelRow is row 4: the same by several goroutines.
func commitParallelRow() row {
	title := fmt.Sprintf("New + Commit + Finalize + Release (retain), %d goroutines", workers)
	return row{4, title, func(ctx context.Context, e *env) ([]line, error) {
		l := line{Work: title + ", " + e.snapshotter, Unit: unitTime, MinRatio: 4, Target: ">= 4x"}
		if err := measureCommit(ctx, e, &l, workers); err != nil {
			return nil, err
		}
		p, o, err := e.count(ctx, countRequest{Work: workCommit, Warm: e.scale(200, 40), Ops: e.scale(400, 80), Goroutines: workers})
		if err != nil {
			return nil, err
		}
		l.Counts = []count{
			{What: fmt.Sprintf("fdatasync per operation, %d goroutines", workers), Peer: &p.Fdatasync, Ours: &o.Fdatasync},
		}
		bare, err := bareLine(ctx, e, workers)
		if err != nil {
			return nil, err
		}
		return []line{l, bare}, nil
	}}
}

// measureCommit fills in the times of a line and checks the records that were made.
func measureCommit(ctx context.Context, e *env, l *line, goroutines int) error {
	return e.withBoth(ctx, func(b both) error {
		peer, err := prepareCommit(ctx, b.peer)
		if err != nil {
			return err
		}
		ours, err := prepareCommit(ctx, b.ours)
		if err != nil {
			return err
		}
		n := e.commits(goroutines)
		if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, timed(n, goroutines, peer), timed(n, goroutines, ours)); err != nil {
			return err
		}
		return b.check(ctx, n*(e.pairs+1))
	})
}

// commits is how many records a sample makes.
func (e *env) commits(goroutines int) int {
	if goroutines > 1 {
		return e.scale(25, 5) * goroutines
	}
	return e.scale(50, 5)
}

// bareLine measures containerd's parts and the row store alone, as they are wired for ours: they write what ours has them write, and that
// is all there is. The difference to ours is what the library itself costs; the rest is the floor of this layout.
func bareLine(ctx context.Context, e *env, goroutines int) (l line, err error) {
	l = line{Unit: unitTime, Target: "for comparison", Work: "the parts alone, which write what ours has them write"}
	if goroutines > 1 {
		l.Work += fmt.Sprintf(", %d goroutines", goroutines)
	}
	dir, err := os.MkdirTemp(e.dir, "bare-")
	if err != nil {
		return line{}, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	c, err := ours.Prepare(ctx, dir, e.snapshotter, nil)
	if err != nil {
		return line{}, err
	}
	defer func() { err = stderrors.Join(err, c.Close()) }()
	e.logf("  the parts alone")
	var made atomic.Int64
	n := e.commits(goroutines)
	l.Ours, err = e.alone(ctx, unitTime, timed(n, goroutines, func(ctx context.Context, _ int) error {
		name := fmt.Sprintf("%021d", made.Add(1)) // as long as records' names
		return c.BareLayer(ctx, name+"-mut", name+"-imm")
	}))
	if err != nil {
		return line{}, err
	}
	got, err := c.CommittedSnapshots(ctx)
	if err == nil && got != int(made.Load()) {
		err = errors.Errorf("%d snapshots were committed instead of %d", got, made.Load())
	}
	return l, err
}
