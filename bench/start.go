package main

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/bench/syncs"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/fixture"
)

// workStart asks for the figures of making a manager on the directory of the request.
const workStart = "start"

// startFigures are what one start of a manager takes.
type startFigures struct {
	// Heap is what the manager occupies afterwards, in bytes, the open parts aside.
	Heap float64
	// Calls of the parts: Stats of snapshots, listings of leases, and all others.
	Stats, Listings, Others float64
	Fdatasync, Fsync        float64
}

// withFixture makes one directory for each side and removes them after fn.
func (e *env) withFixture(ctx context.Context, s fixture.Spec, fn func(peer, ours string) error) (err error) {
	dir, err := os.MkdirTemp(e.dir, "fixture-")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	e.logf("  making a directory of %d records", s.Records+s.Mutable)
	peer, ours := filepath.Join(dir, sidePeer), filepath.Join(dir, sideOurs)
	s.Snapshotter = e.snapshotter
	if err := fixture.Make(ctx, ours, s); err != nil {
		return errors.Wrap(err, "making a directory")
	}
	if err := fixture.Copy(peer, ours); err != nil {
		return err
	}
	return fn(peer, ours)
}

// copied runs fn on a copy of a directory, which the disk has by then, so that no side pays for that later, and removes it afterwards.
func (e *env) copied(dir string, fn func(at string) error) (err error) {
	tmp, err := os.MkdirTemp(e.dir, "copy-")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(tmp)) }()
	at := filepath.Join(tmp, "cache")
	if err := fixture.Copy(at, dir); err != nil {
		return err
	}
	return fn(at)
}

// onPrepared runs fn on the parts of one side, and then holds the manager that fn has made to the
// number of records, unless that is negative.
func onPrepared(ctx context.Context, name, dir, snapshotter string, calls *fault.Faults, records int, fn func(s starter) error) (err error) {
	s, err := prepareSide(ctx, name, dir, snapshotter, calls)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, s.Close()) }()
	if err := fn(s); err != nil || records < 0 {
		return err
	}
	return errors.Wrapf(checkSide(ctx, s, records), "wrong result of %s", name)
}

// startSample times NewManager on a directory.
func (e *env) startSample(name, dir string, records int) sample {
	return func(ctx context.Context) (took float64, err error) {
		err = onPrepared(ctx, name, dir, e.snapshotter, nil, records, func(s starter) error {
			start := time.Now()
			err := s.Start()
			took = perOp(time.Since(start), 1)
			return err
		})
		return took, err
	}
}

// startFigures asks a process of its own for each side's figures.
func (e *env) startFigures(ctx context.Context, peerDir, oursDir string) (peer, ours startFigures, err error) {
	for _, s := range []struct {
		name, dir string
		into      *startFigures
	}{{sidePeer, peerDir, &peer}, {sideOurs, oursDir, &ours}} {
		r := countRequest{Work: workStart, Side: s.name, Dir: s.dir, Snapshotter: e.snapshotter}
		if err := measure.Ask(ctx, childEnv, r, s.into); err != nil {
			return peer, ours, errors.Wrapf(err, "counting a start of %s", s.name)
		}
		e.logf("  counts of %s: %+v", s.name, *s.into)
	}
	return peer, ours, nil
}

// countStart is the child's part.
func countStart(ctx context.Context, r countRequest) (startFigures, error) {
	var f startFigures
	on := func(calls *fault.Faults, fn func(s starter) error) error {
		return onPrepared(ctx, r.Side, r.Dir, r.Snapshotter, calls, -1, fn)
	}
	err := on(nil, func(s starter) error {
		before := measure.HeapInUse()
		if err := s.Start(); err != nil {
			return err
		}
		f.Heap = measure.HeapInUse() - before
		runtime.KeepAlive(s)
		return nil
	})
	if err != nil {
		return f, err
	}
	calls := fault.New()
	err = on(calls, func(s starter) error {
		calls.Reset()
		if err := s.Start(); err != nil {
			return err
		}
		all := 0
		for _, parts := range []string{"snapshots.*", "content.*", "leases.*"} {
			all += calls.Count(parts)
		}
		f.Stats, f.Listings = float64(calls.Count("snapshots.Stat")), float64(calls.Count("leases.List"))
		f.Others = float64(all) - f.Stats - f.Listings
		return nil
	})
	if err != nil {
		return f, err
	}
	return f, on(nil, func(s starter) error { // from here on, this process counts its system calls
		counter, err := syncs.Started()
		if err != nil {
			return err
		}
		before, err := counter.Totals()
		if err != nil {
			return err
		}
		if err := s.Start(); err != nil {
			return err
		}
		after, err := counter.Totals()
		f.Fdatasync = float64(after.Fdatasync - before.Fdatasync)
		f.Fsync = float64(after.Fsync - before.Fsync)
		return err
	})
}
