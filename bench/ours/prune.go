package ours

import (
	"context"

	"github.com/layercache/cache/bench/pruning"
	"github.com/layercache/cache/usage"
)

// Prune prunes by one policy that goes for all types of records.
func (c *Cache) Prune(ctx context.Context, p pruning.Policy) (pruning.Result, error) {
	info := usage.PruneInfo{All: true, ReservedSpace: p.Keep, Filter: p.Filter()}
	return pruning.Prune(&c.collector, p, func(u usage.Info) int64 { return u.Size }, func(ch chan usage.Info) error {
		return c.Manager.Prune(ctx, ch, info)
	})
}
