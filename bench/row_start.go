package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"time"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/bench/ours"
	"github.com/layercache/cache/metadata"
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
		floor := line{
			Work: fmt.Sprintf("only reading %d rows from bolt, containerd listing their leases meanwhile", few), Unit: unitTime, Target: "for comparison",
		}
		spec := fixture.Spec{Records: few, Chain: chain, SizesKnown: true}
		err := e.withFixture(ctx, spec, func(peer, ours string) (err error) {
			l.Peer, l.Ours, err = e.alternate(ctx, unitTime, e.startSample(sidePeer, peer, few), e.startSample(sideOurs, ours, few))
			if err != nil {
				return err
			}
			floor.Ours, err = e.alone(ctx, unitTime, e.readSample(ours, few))
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
		return []line{l, floor, alone}, err
	}}
}

// readSample times what every start with these databases has to do at least, on two cores: all rows and all leases are read, and
// nothing is made of them.
func (e *env) readSample(dir string, records int) sample {
	return func(ctx context.Context) (took float64, err error) {
		c, err := ours.Prepare(ctx, dir, e.snapshotter, nil)
		if err != nil {
			return 0, err
		}
		defer func() { err = stderrors.Join(err, c.Close()) }()
		start := time.Now()
		var rows int
		var work errgroup.Group
		work.Go(func() (err error) {
			rows, err = readRows(c.Parts.MetadataStore.DB())
			return err
		})
		leased, err := c.Parts.LeaseManager.List(ctx)
		err = stderrors.Join(err, work.Wait())
		took = perOp(time.Since(start), 1)
		if err == nil && (rows != records || len(leased) != records) {
			err = errors.Errorf("%d rows and %d leases, not %d", rows, len(leased), records)
		}
		return took, err
	}
}

// readRows looks at each value of each row.
func readRows(db metadata.Transactor) (rows int, err error) {
	err = db.View(func(tx *bolt.Tx) error {
		all := tx.Bucket([]byte("_main"))
		if all == nil {
			return errors.New("there are no rows")
		}
		return all.ForEachBucket(func(id []byte) error {
			rows++
			return all.Bucket(id).ForEach(func(_, _ []byte) error { return nil })
		})
	})
	return rows, errors.WithStack(err)
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
