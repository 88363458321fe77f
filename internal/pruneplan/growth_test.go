package pruneplan_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/pruneplan"
)

// flat has no parents.
func flat(key keys) func(n int) []pruneplan.Item {
	return func(n int) []pruneplan.Item {
		rnd := rand.New(rand.NewPCG(1, 1))
		items := make([]pruneplan.Item, n)
		for i := range items {
			items[i] = pruneplan.Item{ID: fmt.Sprintf("%08d", i), Eligible: true, Objects: []int{i}}
			items[i].LastUsed, items[i].Count = key(rnd, i, n)
		}
		return items
	}
}

// chained has chains of ten.
func chained(key keys) func(n int) []pruneplan.Item {
	return func(n int) []pruneplan.Item {
		items := flat(key)(n)
		for i := range items {
			if i%10 != 0 {
				items[i].Parents = []int{i - 1}
				items[i-1].Links = 1
			}
		}
		return items
	}
}

// dominating has children by key in its upper half, and in the lower half a parent for each that dominates all children: a staircase
// that took it in would go down to one corner, and come back when the parent goes in the next step.
func dominating(key keys) func(n int) []pruneplan.Item {
	return func(n int) []pruneplan.Item {
		items := flat(key)(n)
		for i := range n / 2 {
			items[i].LastUsed, items[i].Count = int64(1+i), int64(1+i)
		}
		for i := n / 2; i < n; i++ {
			items[i].LastUsed += int64(n)
			items[i].Count += int64(n)
			items[i].Parents = []int{n - 1 - i}
			items[n-1-i].Links = 1
		}
		return items
	}
}

var caches = []struct {
	name   string
	make   func(n int) []pruneplan.Item
	chains bool
}{
	{"few counts", flat(shapes["few counts"]), false},
	{"few of both", flat(shapes["few of both"]), false},
	{"all distinct, random", flat(shapes["random distinct"]), false},
	{"all distinct, opposed", flat(shapes["opposed"]), false},
	{"all distinct, opposed, bent", flat(shapes["opposed, bent"]), false},
	{"all distinct, opposed, noisy", flat(shapes["opposed, noisy"]), false},
	{"chains of 10, few counts", chained(shapes["few counts"]), true},
	{"chains of 10, random", chained(shapes["random distinct"]), true},
	{"chains of 10, opposed", chained(shapes["opposed"]), true},
	{"parents dominate, opposed", dominating(shapes["opposed"]), true},
}

// half plans the deletion of half of the items, from the start.
func half(t testing.TB, items []pruneplan.Item, sizes []int64) *pruneplan.Plan {
	p, err := pruneplan.New(items, sizes)
	require.NoError(t, err)
	for range len(items) / 2 {
		if _, ok := p.Next(); !ok {
			require.FailNow(t, "nothing is left too early")
		}
	}
	return p
}

func sizesOf(items []pruneplan.Item) []int64 {
	sizes := make([]int64, len(items))
	for i := range sizes {
		sizes[i] = 1
	}
	return sizes
}

// Counted work for pruning half of the records: it stays below the bound, and grows no faster than the bound does. Scanning again
// takes 16 times the work for 4 times the records, times a logarithm. Spec PRN-13, quirk Q70.
func TestGrowthOfCountedWork(t *testing.T) {
	for _, c := range caches {
		t.Run(c.name, func(t *testing.T) {
			var before, boundBefore float64
			for _, n := range growthSizes {
				items := c.make(n)
				work := float64(half(t, items, sizesOf(items)).Work())
				log := math.Log2(float64(n))
				bound := 2.5 * float64(n) * log * log // of n/2 deletions: two shifts, which mostly begin at the same place
				if c.chains {
					bound = float64(n) * log * log * log / 3 // fronts are few and small for the most part
				}
				t.Logf("%6d records: %8.0f steps, %5.1f for each; %.0f %% of the bound", n, work, work/float64(n), 100*work/bound)
				require.Less(t, work, bound)
				if before > 0 {
					require.Less(t, work/before, bound/boundBefore, "grows faster than its bound")
				}
				before, boundBefore = work, bound
			}
		})
	}
}

func BenchmarkPruneHalf(b *testing.B) {
	for _, c := range caches {
		for _, n := range []int{1 << 10, 16 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				items := c.make(n)
				sizes := sizesOf(items)
				b.ReportAllocs()
				var work int64
				for b.Loop() {
					work = half(b, items, sizes).Work()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n/2), "ns/deletion")
				b.ReportMetric(float64(work)/float64(n/2), "steps/deletion")
			})
		}
	}
}
