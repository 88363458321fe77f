package pruneplan_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache/internal/pruneplan"
)

// keys makes the last use and the count of item i of n.
type keys func(rnd *rand.Rand, i, n int) (last, count int64)

var shapes = map[string]keys{
	"random distinct": func(rnd *rand.Rand, _, _ int) (int64, int64) { return 1 + rnd.Int64N(1e12), 1 + rnd.Int64N(1e12) },
	"opposed":         func(_ *rand.Rand, i, n int) (int64, int64) { return int64(i + 1), int64(n - i) },
	"opposed, bent":   bent,
	"opposed, noisy": func(rnd *rand.Rand, i, n int) (int64, int64) {
		return int64(i) + rnd.Int64N(5), int64(n-i) + rnd.Int64N(5)
	},
	"same direction": func(_ *rand.Rand, i, _ int) (int64, int64) { return int64(i), int64(i) },
	"few counts":     func(rnd *rand.Rand, _, _ int) (int64, int64) { return rnd.Int64N(1e12), rnd.Int64N(4) },
	"few times":      func(rnd *rand.Rand, _, _ int) (int64, int64) { return rnd.Int64N(4), rnd.Int64N(1e12) },
	"few of both":    func(rnd *rand.Rand, _, _ int) (int64, int64) { return rnd.Int64N(4), rnd.Int64N(4) },
	"many ties": func(rnd *rand.Rand, _, n int) (int64, int64) {
		return rnd.Int64N(int64(n/2 + 1)), rnd.Int64N(int64(n/2 + 1))
	},
	"never used": func(*rand.Rand, int, int) (int64, int64) { return 0, 0 },
	"one time":   func(rnd *rand.Rand, _, n int) (int64, int64) { return 7, rnd.Int64N(int64(n)) },
	"one count":  func(rnd *rand.Rand, _, n int) (int64, int64) { return rnd.Int64N(int64(n)), 7 },
	"zero or not": func(rnd *rand.Rand, i, n int) (int64, int64) {
		return int64(i+1) * rnd.Int64N(2), int64(n-i) * rnd.Int64N(2)
	},
}

// bent has every k(k+1)/2-th item on a hull that turns at each of its corners, below the straight line that the others lie on. They fill
// the gaps: without them ranks, which are dense, would be a straight line whatever the keys.
func bent(_ *rand.Rand, i, n int) (last, count int64) {
	k := int(math.Sqrt(8*float64(i)+1)-1) / 2
	if k*(k+1)/2 != i {
		return int64(i + 1), int64(n - i)
	}
	rest := int(math.Sqrt(2*float64(n))) - k
	return int64(i + 1), int64(max(rest*(rest+1)/2, 0) + 1)
}

// cacheOf makes a random cache: parents come from any item, as ages need not follow the graph. density is the mean number of
// parents; above 1 it has merges, some of which name a parent twice.
func cacheOf(rnd *rand.Rand, shape keys, n int, density float64, kept, objects int) ([]pruneplan.Item, []int64) {
	items := make([]pruneplan.Item, n)
	up := rnd.Perm(n) // what lies on what: later in this order on earlier
	age := rnd.Perm(n)
	for k, i := range up {
		it := &items[i]
		it.LastUsed, it.Count = shape(rnd, age[i], n)
		it.Created, it.ID = rnd.Int64N(3), fmt.Sprintf("%04d", up[(k+1)%n])
		it.Eligible = rnd.IntN(100) >= kept
		it.Shared = rnd.IntN(10) == 0
		for d := density; k > 0 && rnd.Float64() < d; d-- {
			for range 1 + rnd.IntN(5)/4 {
				p := up[rnd.IntN(k)]
				it.Parents = append(it.Parents, p)
				items[p].Links++
			}
			if rnd.IntN(4) == 0 {
				p := it.Parents[0]
				it.Parents = append(it.Parents, p)
				items[p].Links++
			}
		}
		if rnd.IntN(100) < kept/2 {
			it.Links++ // a stranger's
		}
	}
	sizes := make([]int64, objects)
	for o := range sizes {
		sizes[o] = rnd.Int64N(100) - 5
	}
	for i := range items {
		for range min(objects, rnd.IntN(4)) {
			items[i].Objects = append(items[i].Objects, rnd.IntN(objects))
		}
	}
	return items, sizes
}

// compare lets a plan and the oracle delete everything.
func compare(t require.TestingT, items []pruneplan.Item, sizes []int64, scores []float64) {
	p, err := pruneplan.New(items, sizes)
	if scores != nil {
		p, err = pruneplan.NewScored(items, sizes, scores)
	}
	require.NoError(t, err)
	o := newOracle(items, sizes, scores)
	require.Equal(t, o.counted, p.Total())
	for n := 0; ; n++ {
		want, more := o.next()
		got, ok := p.Next()
		if more != ok || want != got { // or else Equal would take most of the time
			require.Equal(t, more, ok, "after %d deletions of %v", n, items)
			require.Equal(t, want, got, "deletion %d of %v", n, items)
		}
		if !ok {
			return
		}
	}
}

// deepTrees is how many caches of each shape are tried that have more records, and deeper trees, than those of rapid. It grows with
// -rapid.checks, with which .ci/full asks for more.
func deepTrees(t *testing.T) uint64 {
	t.Helper()
	checks, err := strconv.ParseUint(flag.Lookup("rapid.checks").Value.String(), 10, 32)
	require.NoError(t, err)
	return max(checks/10, 1)
}

// The plan of random caches is what scanning everything again gives: spec PRN-4, PRN-7, PRN-12, PRN-13, quirk Q69, Q70. 310 caches of
// each shape, 4030 in all.
func TestSameAsScanningAgain(t *testing.T) {
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				n := rapid.IntRange(1, 40).Draw(rt, "items")
				density := rapid.SampledFrom([]float64{0, 0.5, 0.9, 1, 2.5}).Draw(rt, "parents")
				kept := rapid.SampledFrom([]int{0, 0, 20}).Draw(rt, "percent kept")
				objects := rapid.IntRange(0, 15).Draw(rt, "objects")
				for k := range uint64(3) {
					items, sizes := cacheOf(rand.New(rand.NewPCG(seed, k)), shape, n, density, kept, objects)
					compare(rt, items, sizes, nil)
				}
			})
			for seed := range deepTrees(t) {
				rnd := rand.New(rand.NewPCG(seed, 99))
				items, sizes := cacheOf(rnd, shape, 60+rnd.IntN(240), []float64{0, 0.9, 2}[seed%3], 0, 0)
				compare(t, items, sizes, nil)
			}
		})
	}
}

// Keys that rapid makes itself shrink to a readable counterexample.
func TestSameAsScanningAgainSmall(t *testing.T) { // spec PRN-12, PRN-13
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(rt, "items")
		key := rapid.Int64Range(0, int64(rapid.IntRange(1, 12).Draw(rt, "values")))
		items := make([]pruneplan.Item, n)
		for i := range items {
			items[i] = pruneplan.Item{
				ID: string(rune('A' + i)), LastUsed: key.Draw(rt, "last"), Count: key.Draw(rt, "count"),
				Eligible: rapid.IntRange(0, 9).Draw(rt, "kept") > 0,
			}
			if p := rapid.IntRange(-n, i-1).Draw(rt, "parent"); p >= 0 {
				items[i].Parents = []int{p}
				items[p].Links++
			}
		}
		compare(rt, items, nil, nil)
	})
}

func TestScoredSameAsScanningAgain(t *testing.T) { // spec PRN-7
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 2))
		items, sizes := cacheOf(rnd, shapes["few of both"], rapid.IntRange(1, 40).Draw(rt, "items"), 1.5, 10, 30)
		scores := make([]float64, len(items))
		for i := range scores {
			scores[i] = float64(rnd.IntN(9)) / 3
		}
		compare(rt, items, sizes, scores)
	})
}

// Plain mode deletes what budget mode would delete down to nothing, children first: spec PRN-11.
func TestPlainDeletesTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 3))
		items, sizes := cacheOf(rnd, shapes["many ties"], rapid.IntRange(1, 40).Draw(rt, "items"), 1.5, 10, 30)
		p, err := pruneplan.NewPlain(items, sizes)
		require.NoError(rt, err)
		o := newOracle(items, sizes, nil)
		for {
			got, ok := p.Next()
			candidates := o.candidates()
			require.Equal(rt, len(candidates) > 0, ok)
			if !ok {
				return
			}
			require.True(rt, slices.Contains(candidates, got.Item))
			require.Equal(rt, o.remove(got.Item), got)
		}
	})
}
