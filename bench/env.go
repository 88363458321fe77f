package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/ours"
	"github.com/layercache/cache/bench/peer"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/machine"
)

// env is what the rows share.
type env struct {
	dir         string // a temporary directory of this run
	snapshotter string // of both sides
	pairs       int
	quick       bool
	start       time.Time
	machine     machine.Machine
	commit      string // found out before anything is written, which would be a change
}

func newEnv(ctx context.Context, f flags) (*env, error) {
	dir, err := os.MkdirTemp(f.dir, "cache-bench-")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	e := &env{dir: dir, pairs: f.pairs, quick: f.quick, start: time.Now(), commit: machine.Commit()}
	if e.machine, err = machine.Describe(dir); err != nil {
		return nil, stderrors.Join(err, e.close())
	}
	c, err := ours.Open(ctx, filepath.Join(dir, "choice"), "", nil)
	if err != nil {
		return nil, stderrors.Join(err, e.close())
	}
	e.snapshotter = c.Parts.SnapshotterName
	e.logf("%s: snapshotter %s (%s), %d pairs", dir, e.snapshotter, c.Parts.SnapshotterReason, e.pairs)
	if err := c.Close(); err != nil {
		return nil, stderrors.Join(err, e.close())
	}
	return e, nil
}

// close removes all that the run has made.
func (e *env) close() error { return errors.WithStack(os.RemoveAll(e.dir)) }

// logf reports progress.
func (e *env) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(e.start).Seconds(), fmt.Sprintf(format, args...))
}

// scale is full in a full run and quick in a quick one.
func (e *env) scale(full, quick int) int {
	if e.quick {
		return quick
	}
	return full
}

// The sides by name.
const (
	sidePeer = "peer"
	sideOurs = "ours"
)

// side is a cache of either kind in a directory of its own. Rows that need more calls declare
// an interface of their own with them.
type side interface {
	// NewLayer makes a record that stays: New, Commit, Finalize, Release.
	NewLayer(ctx context.Context) (id string, err error)
	// GetRelease gets a ref to the record and releases it.
	GetRelease(ctx context.Context, id string) error
	// Census counts all records, and those that are in use.
	Census(ctx context.Context) (records, inUse int, err error)
	Close() error
}

// starter is a side whose manager is yet to be made.
type starter interface {
	side
	// Start makes the manager, which loads all records.
	Start() error
}

// prepareSide opens the parts of one of the two. calls, if not nil, counts what it asks of them.
func prepareSide(ctx context.Context, name, dir, snapshotter string, calls *fault.Faults) (starter, error) {
	switch name {
	case sidePeer:
		c, err := peer.Prepare(ctx, dir, snapshotter, calls)
		if err != nil {
			return nil, errors.Wrap(err, "opening the peer")
		}
		return c, nil
	case sideOurs:
		c, err := ours.Prepare(ctx, dir, snapshotter, calls)
		if err != nil {
			return nil, errors.Wrap(err, "opening ours")
		}
		return c, nil
	}
	return nil, errors.Errorf("side %q is unknown", name)
}

// openSide opens one of the two. calls, if not nil, counts what it asks of the parts.
func openSide(ctx context.Context, name, dir, snapshotter string, calls *fault.Faults) (side, error) {
	s, err := prepareSide(ctx, name, dir, snapshotter, calls)
	if err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		return nil, stderrors.Join(errors.Wrapf(err, "starting %s", name), s.Close())
	}
	return s, nil
}

// both are the two sides of one measurement.
type both struct{ peer, ours side }

// withBoth opens both sides in a new directory, runs fn, closes them and removes the directory.
func (e *env) withBoth(ctx context.Context, fn func(both) error) (err error) {
	dir, err := os.MkdirTemp(e.dir, "row-")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	var b both
	if b.peer, err = openSide(ctx, sidePeer, filepath.Join(dir, sidePeer), e.snapshotter, nil); err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, b.peer.Close()) }()
	if b.ours, err = openSide(ctx, sideOurs, filepath.Join(dir, sideOurs), e.snapshotter, nil); err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, b.ours.Close()) }()
	return fn(b)
}

// check fails unless both sides have exactly so many records, none of them in use.
func (b both) check(ctx context.Context, records int) error {
	for _, s := range []struct {
		name string
		side side
	}{{sidePeer, b.peer}, {sideOurs, b.ours}} {
		if err := checkSide(ctx, s.side, records); err != nil {
			return errors.Wrapf(err, "wrong result of %s", s.name)
		}
	}
	return nil
}

func checkSide(ctx context.Context, s side, records int) error {
	got, inUse, err := s.Census(ctx)
	if err != nil {
		return err
	}
	if got != records || inUse != 0 {
		return errors.Errorf("%d records, %d of them in use, instead of %d and none", got, inUse, records)
	}
	return nil
}
