package main

import (
	"context"
	stderrors "errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/image"
)

// layerSide is a side that takes layers by their blobs.
type layerSide interface {
	side
	// GetChain gets refs to layers, bottom first, each with the handlers of all, and returns the last one.
	GetChain(ctx context.Context, layers []ocispecs.Descriptor, provider content.Provider) (image.Ref, error)
}

const (
	workBlobMiss   = "blob-miss"
	workLazyHit    = "blob-hit-lazy"
	workBlobHit    = "blob-hit"
	workDeepChain  = "deep-chain"
	workQuickChain = "deep-chain-quick"

	// deepChain is how many layers the chain has whose top is got, quickChain how many in a quick run: making one syncs
	// many times per layer, on either side.
	deepChain  = 100
	quickChain = 15
)

// prepareBlobMiss gets a chain of layers that are new to the cache.
func prepareBlobMiss(_ context.Context, s side) (func(context.Context, int) error, error) {
	ls, err := layersOf(s)
	if err != nil {
		return nil, err
	}
	made := 0
	return func(ctx context.Context, _ int) error {
		made++
		ref, err := ls.GetChain(ctx, image.Unseen(fmt.Sprintf("miss %d", made), chain), nil)
		if err != nil {
			return err
		}
		return ref.Release(ctx)
	}, nil
}

func layersOf(s side) (layerSide, error) {
	ls, ok := s.(layerSide)
	if !ok {
		return nil, errors.Errorf("%T takes no layers", s)
	}
	return ls, nil
}

// prepareBlobHit gets a chain that the cache has, extracted or not.
func prepareBlobHit(extracted bool) countedWork {
	return func(ctx context.Context, s side) (func(context.Context, int) error, error) {
		layers, blobs, id, err := prepareChain(ctx, s, chain, extracted)
		if err != nil {
			return nil, err
		}
		ls, err := layersOf(s)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, _ int) error {
			ref, err := ls.GetChain(ctx, layers, blobs)
			if err != nil {
				return err
			}
			if got := ref.ID(); got != id {
				err = errors.Errorf("record %q instead of %q", got, id)
			}
			return stderrors.Join(err, ref.Release(ctx))
		}, nil
	}
}

// prepareDeepChain gets the top of a long extracted chain.
func prepareDeepChain(depth int) countedWork {
	return func(ctx context.Context, s side) (func(context.Context, int) error, error) {
		_, _, id, err := prepareChain(ctx, s, depth, true)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, _ int) error { return s.GetRelease(ctx, id) }, nil
	}
}

// prepareChain makes a chain of small layers and returns the ID of its top.
func prepareChain(ctx context.Context, s side, length int, extracted bool) (layers []ocispecs.Descriptor, blobs image.Memory, id string, err error) {
	ls, err := layersOf(s)
	if err != nil {
		return nil, nil, "", err
	}
	blobs = image.Memory{}
	if layers, err = blobs.Tiny(length); err != nil {
		return nil, nil, "", err
	}
	ref, err := ls.GetChain(ctx, layers, blobs)
	if err != nil {
		return nil, nil, "", err
	}
	if extracted {
		err = ref.Extract(ctx)
	}
	return layers, blobs, ref.ID(), stderrors.Join(err, ref.Release(ctx))
}

// measureLayers fills in the times of a line, for one of some layers of each call.
func measureLayers(ctx context.Context, e *env, l *line, prepare countedWork, calls, layers int, records func(calls int) int) error {
	return e.withBoth(ctx, func(b both) error {
		peer, err := prepare(ctx, b.peer)
		if err != nil {
			return errors.Wrap(err, sidePeer)
		}
		ours, err := prepare(ctx, b.ours)
		if err != nil {
			return errors.Wrap(err, sideOurs)
		}
		perLayer := func(op func(context.Context, int) error) sample {
			all := timed(calls, 1, op)
			return func(ctx context.Context) (float64, error) {
				v, err := all(ctx)
				return v / float64(layers), err
			}
		}
		if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, perLayer(peer), perLayer(ours)); err != nil {
			return err
		}
		return b.check(ctx, records(calls*(e.pairs+1)))
	})
}

// blobMissRow is row 5: a chain of layers that are new, none of which is pulled.
func blobMissRow() row {
	title := fmt.Sprintf("GetByBlob, miss (lazy), per layer of a chain of %d", chain)
	return row{5, title, func(ctx context.Context, e *env) ([]line, error) {
		l := line{Work: title, Unit: unitTime, MinRatio: 3, Target: ">= 3x; 1 transaction and 1 for the lease"}
		err := measureLayers(ctx, e, &l, prepareBlobMiss, e.scale(10, 2), chain, func(calls int) int { return calls * chain })
		if err != nil {
			return nil, err
		}
		p, o, err := e.count(ctx, countRequest{Work: workBlobMiss, Warm: e.scale(20, 5), Ops: e.scale(20, 5)})
		if err != nil {
			return nil, err
		}
		for _, c := range []*counts{&p, &o} {
			c.perLayer(chain)
		}
		// The rest of what is written is bbolt's: two fdatasync per transaction.
		peerTx, oursTx := p.Fdatasync/2, o.Fdatasync/2
		l.Counts = []count{
			{What: "fdatasync per layer", Peer: &p.Fdatasync, Ours: &o.Fdatasync, Limit: number(4)},
			{What: "write transactions per layer, which are two fdatasync each", Peer: &peerTx, Ours: &oursTx, Limit: number(2)},
			{What: "calls of snapshotter, content store and leases per layer", Peer: &p.Calls, Ours: &o.Calls},
			{What: "of the content store", Peer: &p.Content, Ours: &o.Content, Limit: number(0)},
			{What: "allocations per layer", Peer: &p.Allocs, Ours: &o.Allocs},
		}
		floor, err := floorLine(ctx, e, fmt.Sprintf("the disk alone: %s and %s fdatasync", plain(&p.Fdatasync), plain(&o.Fdatasync)), p.Fdatasync, o.Fdatasync)
		return []line{l, floor}, err
	}}
}

// perLayer divides counts that were taken of some layers at once.
func (c *counts) perLayer(layers float64) {
	for _, v := range []*float64{&c.Fdatasync, &c.Fsync, &c.Calls, &c.Content, &c.Allocs} {
		*v /= layers
	}
}

// blobHitRow is row 6: layers that the cache has.
func blobHitRow() row {
	return row{6, "GetByBlob, hit; Get of a deep chain", func(ctx context.Context, e *env) ([]line, error) {
		var lines []line
		depth, deep := deepChain, workDeepChain
		if e.quick {
			depth, deep = quickChain, workQuickChain
		}
		for _, w := range []struct {
			title, work string
			prepare     countedWork
			layers      int
			records     int
		}{
			{fmt.Sprintf("GetByBlob, hit, per layer of a chain of %d, lazy", chain), workLazyHit, prepareBlobHit(false), chain, chain},
			{fmt.Sprintf("GetByBlob, hit, per layer of a chain of %d, extracted", chain), workBlobHit, prepareBlobHit(true), chain, chain},
			{fmt.Sprintf("Get + Release of the top of %d extracted layers", depth), deep, prepareDeepChain(depth), 1, depth},
		} {
			l := line{Work: w.title, Unit: unitTime, MinRatio: 20, Target: ">= 20x; 0 calls of the content store"}
			err := measureLayers(ctx, e, &l, w.prepare, e.scale(20, 2), w.layers, func(int) int { return w.records })
			if err != nil {
				return nil, err
			}
			p, o, err := e.count(ctx, countRequest{Work: w.work, Warm: 5, Ops: e.scale(50, 10)})
			if err != nil {
				return nil, err
			}
			l.Counts = []count{
				{What: "calls of the content store, " + w.title, Peer: &p.Content, Ours: &o.Content, Limit: number(0)},
				{What: "calls of snapshotter, content store and leases", Peer: &p.Calls, Ours: &o.Calls, Limit: number(0)},
				{What: "fdatasync", Peer: &p.Fdatasync, Ours: &o.Fdatasync, Limit: number(0)},
				{What: "allocations", Peer: &p.Allocs, Ours: &o.Allocs},
			}
			lines = append(lines, l)
		}
		return lines, nil
	}}
}
