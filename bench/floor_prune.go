package main

import (
	"context"
	stderrors "errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/bench/ours"
)

// What the databases alone cost says how far the ratio of a prune can go: the same leases and the same rows deleted, with as many in
// a transaction as the library takes, but nothing chosen, marked, counted or reported.

// pruneFloorBatch is how many leases, or rows, a transaction deletes.
const pruneFloorBatch = 512

// pruneFloorLine measures the floor of a prune.
func (e *env) pruneFloorLine(ctx context.Context, w pruneWork, dir string) (l line, err error) {
	l = line{Work: "their leases and rows deleted from the databases, 512 at a time, and nothing else", Unit: unitTime, Target: "for comparison"}
	e.logf("  the databases alone")
	l.Ours, err = e.alone(ctx, unitTime, func(ctx context.Context) (took float64, err error) {
		err = e.copied(dir, func(at string) (err error) {
			c, err := ours.Prepare(ctx, at, e.snapshotter, nil)
			if err != nil {
				return err
			}
			defer func() { err = stderrors.Join(err, c.Close()) }()
			ids, err := w.victims(c)
			if err != nil {
				return err
			}
			runtime.GC()
			start := time.Now()
			for batch := range slices.Chunk(ids, pruneFloorBatch) {
				if err := deleteFromDatabases(ctx, c, batch); err != nil {
					return err
				}
			}
			took = perOp(time.Since(start), 1)
			return w.checkFloor(ctx, c)
		})
		return took, err
	})
	return l, err
}

// rowsBucket has a bucket for each row (see package metadata).
var rowsBucket = []byte("_main")

// victims chooses as many rows as are to go, in the order in which they lie.
func (w pruneWork) victims(c *ours.Cache) (ids []string, err error) {
	err = c.Parts.MetadataStore.DB().View(func(tx *bolt.Tx) error {
		return tx.Bucket(rowsBucket).ForEachBucket(func(id []byte) error {
			ids = append(ids, string(id))
			return nil
		})
	})
	if err != nil {
		return nil, errors.Wrap(err, "listing rows")
	}
	random := rand.New(rand.NewPCG(3, 13))
	random.Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	if len(ids) < w.gone {
		return nil, errors.Errorf("%d rows instead of %d", len(ids), w.records)
	}
	ids = ids[:w.gone]
	slices.Sort(ids)
	return ids, nil
}

func deleteFromDatabases(ctx context.Context, c *ours.Cache, ids []string) error {
	err := c.Parts.Transactions.Update(ctx, func(ctx context.Context) error {
		for _, id := range ids {
			if err := c.Parts.LeaseManager.Delete(ctx, leases.Lease{ID: id}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Wrap(err, "deleting leases")
	}
	err = c.Parts.MetadataStore.DB().Update(func(tx *bolt.Tx) error {
		rows := tx.Bucket(rowsBucket)
		for _, id := range ids {
			if err := rows.DeleteBucket([]byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Wrap(err, "deleting rows")
}

// checkFloor holds the databases to what is to be left in them.
func (w pruneWork) checkFloor(ctx context.Context, c *ours.Cache) error {
	left, err := c.Parts.LeaseManager.List(ctx)
	if err != nil {
		return errors.Wrap(err, "listing leases")
	}
	rows := 0
	err = c.Parts.MetadataStore.DB().View(func(tx *bolt.Tx) error {
		return tx.Bucket(rowsBucket).ForEachBucket(func([]byte) error {
			rows++
			return nil
		})
	})
	if err != nil {
		return errors.Wrap(err, "counting rows")
	}
	if want := w.records - w.gone; rows != want || len(left) != want {
		return errors.Errorf("%d rows and %d leases are left instead of %d", rows, len(left), want)
	}
	return nil
}
