package main

import (
	"context"
	"fmt"

	"github.com/layercache/cache/testutil/fixture"
)

// heapRow is row 18: what a loaded record occupies. It is counted once per side, each in a process
// of its own, after garbage collection.
func heapRow() row {
	return row{18, "heap per loaded record", func(ctx context.Context, e *env) ([]line, error) {
		records := e.scale(100_000, 1000)
		l := line{
			Work: fmt.Sprintf("heap per loaded record, %d in chains of %d", records, chain), Unit: "B",
			MinRatio: 3, MaxOurs: 1536, Target: "<= 1536 B; <= 1/3 of the peer's",
		}
		err := e.withFixture(ctx, fixture.Spec{Records: records, Chain: chain, SizesKnown: true}, func(peer, ours string) error {
			p, o, err := e.startFigures(ctx, peer, ours)
			l.Peer, l.Ours = p.Heap/float64(records), o.Heap/float64(records)
			return err
		})
		return []line{l}, err
	}}
}
