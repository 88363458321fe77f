package local

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/pkg/errors"
)

// GarbageCollect removes snapshots and blobs that no lease protects. If ctx ends first it
// returns ctx's error while the collection goes on; a collection cannot be cut short without
// losing track of what is left to remove. Close waits for it. After Close it returns [ErrClosed].
func (p *Parts) GarbageCollect(ctx context.Context) (gc.Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, errors.WithStack(err)
	}
	if p.reading != nil {
		return nil, lookOnly("garbage collection")
	}
	if err := p.tx.apart(ctx, "garbage collection"); err != nil {
		return nil, err
	}
	if err := p.running.begin(); err != nil {
		return nil, err
	}
	type result struct {
		stats gc.Stats
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer p.running.end()
		stats, err := p.collect(context.WithoutCancel(ctx))
		done <- result{stats, errors.Wrap(err, "garbage collection")}
	}()
	select {
	case r := <-done:
		return r.stats, r.err
	case <-ctx.Done():
		return nil, errors.Wrap(ctx.Err(), "garbage collection goes on in the background")
	}
}

func (p *Parts) collect(ctx context.Context) (gc.Stats, error) {
	stats, err := p.db.GarbageCollect(ctx)
	if err != nil {
		return nil, err
	}
	if p.guard == nil || !p.guard.untidy.Swap(false) {
		return stats, nil
	}
	if err := p.guard.tidy(ctx); err != nil {
		p.guard.untidy.Store(true)
		return stats, err
	}
	return stats, nil
}
