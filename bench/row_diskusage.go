package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"runtime"
	"time"

	"github.com/layercache/cache/testutil/fixture"
)

// diskUsageKnownRow is row 8: DiskUsage of records whose sizes are in their rows.
func diskUsageKnownRow() row {
	return row{8, "DiskUsage, sizes known", func(ctx context.Context, e *env) ([]line, error) {
		records := e.scale(10_000, 200)
		l := line{Work: fmt.Sprintf("DiskUsage, %d records, sizes known", records), Unit: unitTime, MinRatio: 8, Target: ">= 8x"}
		spec := fixture.Spec{Records: records, Chain: chain, SizesKnown: true}
		err := e.withFixture(ctx, spec, func(peerDir, oursDir string) (err error) {
			p, closePeer, err := e.diskUsageSample(ctx, sidePeer, peerDir, records)
			if err != nil {
				return err
			}
			defer func() { err = stderrors.Join(err, closePeer()) }()
			o, closeOurs, err := e.diskUsageSample(ctx, sideOurs, oursDir, records)
			if err != nil {
				return err
			}
			defer func() { err = stderrors.Join(err, closeOurs()) }()
			l.Peer, l.Ours, err = e.alternate(ctx, unitTime, p, o)
			return err
		})
		return []line{l}, err
	}}
}

// diskUsageSample opens a directory and times DiskUsage there. Who takes samples closes it afterwards.
func (e *env) diskUsageSample(ctx context.Context, name, dir string, records int) (sample, func() error, error) {
	s, err := openSide(ctx, name, dir, e.snapshotter, nil)
	if err != nil {
		return nil, nil, err
	}
	const calls = 3
	return timed(calls, 1, func(ctx context.Context, _ int) error { return checkSide(ctx, s, records) }), s.Close, nil
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
