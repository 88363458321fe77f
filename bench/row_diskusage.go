package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"runtime"
	"time"

	"github.com/layercache/cache/bench/fixture"
)

// diskUsageKnownRow is row 8: DiskUsage of records whose sizes are in their rows.
func diskUsageKnownRow() row {
	return row{8, "DiskUsage, sizes known", func(ctx context.Context, e *env) ([]line, error) {
		records := e.scale(10_000, 200)
		l := line{Work: fmt.Sprintf("DiskUsage, %d records, sizes known", records), Unit: unitTime, MinRatio: 8, Target: ">= 8x"}
		spec := fixture.Spec{Records: records, Chain: chain, SizesKnown: true}
		err := e.withFixture(ctx, spec, func(peerDir, oursDir string) (err error) {
			p, err := openSide(ctx, sidePeer, peerDir, e.snapshotter, nil)
			if err != nil {
				return err
			}
			defer func() { err = stderrors.Join(err, p.Close()) }()
			o, err := openSide(ctx, sideOurs, oursDir, e.snapshotter, nil)
			if err != nil {
				return err
			}
			defer func() { err = stderrors.Join(err, o.Close()) }()
			census := func(s side) func(context.Context, int) error {
				return func(ctx context.Context, _ int) error { return checkSide(ctx, s, records) }
			}
			const calls = 3
			l.Peer, l.Ours, err = e.alternate(ctx, unitTime, timed(calls, 1, census(p)), timed(calls, 1, census(o)))
			return err
		})
		return []line{l}, err
	}}
}

// diskUsageUnknownRow is row 9: DiskUsage of records that nobody has measured yet.
func diskUsageUnknownRow() row {
	return row{9, "DiskUsage, sizes unknown", func(ctx context.Context, e *env) ([]line, error) {
		records := e.scale(10_000, 200)
		l := line{Work: fmt.Sprintf("DiskUsage, %d records, sizes unknown", records), Unit: unitTime, MinRatio: 4, Target: ">= 4x"}
		// Ours writes the sizes behind. Close waits for that.
		stored := line{Work: "the same and Close, after which the sizes are stored", Unit: unitTime, Target: "for comparison"}
		err := e.withFixture(ctx, fixture.Spec{Records: records, Chain: chain}, func(peerDir, oursDir string) (err error) {
			var peerAll, oursAll []float64
			l.Peer, l.Ours, err = e.alternate(ctx, unitTime,
				e.unknownSample(sidePeer, peerDir, records, &peerAll), e.unknownSample(sideOurs, oursDir, records, &oursAll))
			if err != nil {
				return err
			}
			stored.Peer, stored.Ours = median(peerAll[1:]), median(oursAll[1:]) // the first of each warms up
			return nil
		})
		return []line{l, stored}, err
	}}
}

// unknownSample times DiskUsage on a fresh copy of a directory, since afterwards the sizes are
// known. It adds the time including Close to all.
func (e *env) unknownSample(name, dir string, records int, all *[]float64) sample {
	return func(ctx context.Context) (took float64, err error) {
		err = e.copied(dir, func(at string) error {
			s, err := openSide(ctx, name, at, e.snapshotter, nil)
			if err != nil {
				return err
			}
			runtime.GC()
			start := time.Now()
			err = checkSide(ctx, s, records)
			took = perOp(time.Since(start), 1)
			err = stderrors.Join(err, s.Close())
			*all = append(*all, perOp(time.Since(start), 1))
			return err
		})
		return took, err
	}
}
