package peer

import (
	"context"

	"github.com/moby/buildkit/client"

	"github.com/layercache/cache/bench/pruning"
)

// Prune prunes by one policy that goes for all types of records.
func (c *Cache) Prune(ctx context.Context, p pruning.Policy) (pruning.Result, error) {
	info := client.PruneInfo{All: true, ReservedSpace: p.Keep, Filter: p.Filter()}
	return pruning.Prune(&c.collector, p, func(u client.UsageInfo) int64 { return u.Size }, func(ch chan client.UsageInfo) error {
		return c.Manager.Prune(ctx, ch, info)
	})
}
