package main

import (
	"context"
	"fmt"

	"github.com/layercache/cache/testutil/fixture"
)

// chain is the length of the chains that the records of a prepared directory form.
const chain = 10

// startRow is row 7: NewManager on records that need no repair.
func startRow() row {
	return row{7, "NewManager on clean records", func(ctx context.Context, e *env) ([]line, error) {
		few, many := e.scale(10_000, 200), e.scale(100_000, 1000)
		l := line{
			Work: fmt.Sprintf("NewManager on %d clean records in chains of %d", few, chain), Unit: unitTime,
			MinRatio: 8, Target: ">= 8x; 0 writes, 1 lease listing, a Stat per mutable record",
		}
		spec := fixture.Spec{Records: few, Chain: chain, SizesKnown: true}
		err := e.withFixture(ctx, spec, func(peer, ours string) (err error) {
			l.Peer, l.Ours, err = e.alternate(ctx, unitTime, e.startSample(sidePeer, peer, few), e.startSample(sideOurs, ours, few))
			return err
		})
		if err != nil {
			return nil, err
		}
		if l.Counts, err = startCounts(ctx, e, few); err != nil {
			return nil, err
		}
		alone := line{
			Work: fmt.Sprintf("the same on %d, ours alone", many), Unit: unitTime, MaxOurs: 1.2e9, Target: "about 1 s",
		}
		spec.Records = many
		err = e.withFixture(ctx, spec, func(_, ours string) (err error) {
			alone.Ours, err = e.alone(ctx, unitTime, e.startSample(sideOurs, ours, many))
			return err
		})
		return []line{l, alone}, err
	}}
}

// startCounts counts a start on a directory with some mutable records as well.
func startCounts(ctx context.Context, e *env, records int) ([]count, error) {
	const mutable = 25
	var p, o startFigures
	spec := fixture.Spec{Records: records, Chain: chain, Mutable: mutable, SizesKnown: true}
	err := e.withFixture(ctx, spec, func(peer, ours string) (err error) {
		p, o, err = e.startFigures(ctx, peer, ours)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []count{
		{What: "fdatasync of NewManager", Peer: &p.Fdatasync, Ours: &o.Fdatasync, Limit: number(0)},
		{What: "fsync of NewManager", Peer: &p.Fsync, Ours: &o.Fsync, Limit: number(0)},
		{What: "listings of leases by NewManager", Peer: &p.Listings, Ours: &o.Listings, Limit: number(1)},
		{What: fmt.Sprintf("Stats of snapshots by NewManager, %d mutable records", mutable), Peer: &p.Stats, Ours: &o.Stats, Limit: number(mutable)},
		{What: "other calls of snapshotter, content store and leases by NewManager", Peer: &p.Others, Ours: &o.Others, Limit: number(0)},
	}, nil
}
