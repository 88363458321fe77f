package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"
)

// sample runs one side's share of a pair and returns the value measured.
type sample func(ctx context.Context) (float64, error)

// alternate takes one sample to warm up and then the pairs of samples, peer and ours in turns, and
// returns the medians.
func (e *env) alternate(ctx context.Context, unit string, peer, ours sample) (peerMedian, oursMedian float64, err error) {
	var p, o []float64
	for i := 0; i <= e.pairs; i++ {
		vp, err := takeSample(ctx, peer)
		if err != nil {
			return 0, 0, errors.Wrap(err, sidePeer)
		}
		vo, err := takeSample(ctx, ours)
		if err != nil {
			return 0, 0, errors.Wrap(err, sideOurs)
		}
		if i == 0 {
			continue
		}
		p, o = append(p, vp), append(o, vo)
		e.logf("  pair %d of %d: peer %s, ours %s", i, e.pairs, quantity(vp, unit), quantity(vo, unit))
	}
	return median(p), median(o), nil
}

// alternateSlow is alternate for work that takes the peer minutes: it has a part in so many of the pairs only, the first
// ones, and does not warm up.
func (e *env) alternateSlow(ctx context.Context, unit string, peerSamples int, peer, ours sample) (peerMedian, oursMedian float64, err error) {
	if _, err := takeSample(ctx, ours); err != nil {
		return 0, 0, errors.Wrap(err, sideOurs)
	}
	var p, o []float64
	for i := range e.pairs {
		if i < peerSamples {
			v, err := takeSample(ctx, peer)
			if err != nil {
				return 0, 0, errors.Wrap(err, sidePeer)
			}
			p = append(p, v)
			e.logf("  sample %d of %d: peer %s", i+1, min(peerSamples, e.pairs), quantity(v, unit))
		}
		v, err := takeSample(ctx, ours)
		if err != nil {
			return 0, 0, errors.Wrap(err, sideOurs)
		}
		o = append(o, v)
		e.logf("  sample %d of %d: ours %s", i+1, e.pairs, quantity(v, unit))
	}
	return median(p), median(o), nil
}

// alternateWithin takes pairs of samples, peer and ours in turns, until what they measured adds up to the budget, and one pair
// in any case. A side without a sample has no part. It does not warm up.
func (e *env) alternateWithin(ctx context.Context, unit string, budget float64, pairs int, peer, ours sample) (p, o []float64, err error) {
	spent := 0.
	for i := 0; i < pairs && (i == 0 || spent < budget); i++ {
		for _, s := range []struct {
			name string
			take sample
			into *[]float64
		}{{sidePeer, peer, &p}, {sideOurs, ours, &o}} {
			if s.take == nil {
				continue
			}
			v, err := takeSample(ctx, s.take)
			if err != nil {
				return nil, nil, errors.Wrap(err, s.name)
			}
			*s.into = append(*s.into, v)
			spent += v
			e.logf("    sample %d: %s %s", i+1, s.name, quantity(v, unit))
		}
	}
	return p, o, nil
}

// alone takes as many samples of ours as there are pairs, after one to warm up, and returns the median.
func (e *env) alone(ctx context.Context, unit string, ours sample) (float64, error) {
	var o []float64
	for i := 0; i <= e.pairs; i++ {
		v, err := takeSample(ctx, ours)
		if err != nil {
			return 0, errors.Wrap(err, sideOurs)
		}
		if i == 0 {
			continue
		}
		o = append(o, v)
		e.logf("  sample %d of %d: ours %s", i, e.pairs, quantity(v, unit))
	}
	return median(o), nil
}

// takeSample begins with an empty garbage list, so that neither side pays for the other's.
func takeSample(ctx context.Context, s sample) (float64, error) {
	if err := ctx.Err(); err != nil {
		return 0, errors.WithStack(err)
	}
	runtime.GC()
	return s(ctx)
}

// timed returns a sample that calls op n times on some goroutines and gives the wall time per call.
// op gets the number of its call, from 0 on; each number comes once.
func timed(n, goroutines int, op func(ctx context.Context, i int) error) sample {
	return func(ctx context.Context) (float64, error) {
		start := time.Now()
		err := spread(ctx, n, goroutines, op)
		return perOp(time.Since(start), n), err
	}
}

// spread calls op n times on some goroutines, which take numbers in chunks so that
// handing them out costs nothing that one would measure.
func spread(ctx context.Context, n, goroutines int, op func(ctx context.Context, i int) error) error {
	if goroutines == 1 {
		for i := range n {
			if err := op(ctx, i); err != nil {
				return err
			}
		}
		return nil
	}
	chunk := max(1, min(64, n/(goroutines*8)))
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range goroutines {
		g.Go(func() error {
			for {
				end := int(next.Add(int64(chunk)))
				for i := end - chunk; i < min(end, n); i++ {
					if err := op(ctx, i); err != nil {
						return err
					}
				}
				if end >= n {
					return nil
				}
			}
		})
	}
	return g.Wait()
}
