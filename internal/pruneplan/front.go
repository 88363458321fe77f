package pruneplan

import (
	"math"
	"math/bits"
	"sort"
)

// front is a set of candidates that only shrinks. Those with the same last use are a column, which shows its first one only. The
// columns that are not dominated by an earlier one, having a lower count than all of these, are the corners of the staircase.
type front struct {
	r       *ranked
	built   int     // how many it was made of
	live    int     // how many are left
	places  []int32 // ascending: by time, count, creation, ID
	columns []column
	nodes   []node // a perfect binary tree: node i has the children 2i and 2i+1, column k is leaf k+width
	width   int
	height  int
}

// column is the part of places with one time of last use.
type column struct {
	time      int32
	head, end int32
}

// none is a count above all that there are.
const none = math.MaxInt32

// newFront makes a front of places in ascending order, at least one.
func newFront(r *ranked, places []int32) *front {
	f := &front{r: r, built: len(places), live: len(places), places: places}
	for k, p := range places {
		if t := r.times.of[p]; k == 0 || f.columns[len(f.columns)-1].time != t {
			f.columns = append(f.columns, column{time: t, head: int32(k)})
		}
		f.columns[len(f.columns)-1].end = int32(k + 1)
	}
	f.height = bits.Len(uint(len(f.columns) - 1))
	f.width = 1 << f.height
	f.nodes = make([]node, 2*f.width)
	least := int32(none)
	for k := range f.width {
		n := &f.nodes[f.width+k]
		if n.least = f.count(k); n.least < least {
			least = n.least
			n.setCorner(f.ranks(k))
		}
	}
	for i := f.width - 1; i > 0; i-- {
		f.nodes[i].least = min(f.nodes[2*i].least, f.nodes[2*i+1].least)
		f.nodes[i].dirty = true
	}
	*r.work += int64(len(places) + 2*f.width)
	return f
}

// rest lists what is left, in ascending order.
func (f *front) rest() []int32 {
	out := make([]int32, 0, f.live)
	for _, c := range f.columns {
		out = append(out, f.places[c.head:c.end]...)
	}
	*f.r.work += int64(f.live + len(f.columns))
	return out
}

// first returns the place that a column shows.
func (f *front) first(k int) int32 { return f.places[f.columns[k].head] }

// count returns the count that a column shows.
func (f *front) count(k int) int32 {
	if k >= len(f.columns) || f.columns[k].head == f.columns[k].end {
		return none
	}
	return f.r.counts.of[f.first(k)]
}

// ranks returns where a column lies now.
func (f *front) ranks(k int) point {
	return point{t: f.r.times.rank(f.columns[k].time), c: f.r.counts.rank(f.count(k))}
}

// drop takes the first of a column that is a corner away, and makes corners of what that uncovers.
func (f *front) drop(k int) {
	before := f.count(k)
	f.columns[k].head++
	f.live--
	now := f.count(k)
	if now == before {
		return
	}
	f.setLeast(k, now)
	f.path(k).kind = empty
	for limit := f.leastBefore(k); ; {
		k = f.firstBelow(k, limit)
		if k < 0 || f.nodes[f.width+k].kind != empty {
			return // the next one that was a corner already
		}
		limit = f.count(k)
		f.path(k).setCorner(f.ranks(k))
	}
}

// setLeast changes the count that a column shows.
func (f *front) setLeast(k int, count int32) {
	i := f.width + k
	f.nodes[i].least = count
	for i >>= 1; i > 0; i >>= 1 {
		*f.r.work++
		f.nodes[i].least = min(f.nodes[2*i].least, f.nodes[2*i+1].least)
	}
}

// leastBefore returns the lowest count of the columns before k.
func (f *front) leastBefore(k int) int32 {
	least := int32(none)
	for i := f.width + k; i > 1; i >>= 1 {
		*f.r.work++
		if i&1 == 1 {
			least = min(least, f.nodes[i-1].least)
		}
	}
	return least
}

// firstBelow returns the first column from k on that shows a count below limit, -1 if there is none.
func (f *front) firstBelow(k int, limit int32) int {
	i := f.width + k
	for f.nodes[i].least >= limit {
		*f.r.work++
		for i&1 == 1 {
			i >>= 1
		}
		if i == 0 {
			return -1
		}
		i++
	}
	for i < f.width {
		*f.r.work++
		if i *= 2; f.nodes[i].least >= limit {
			i++
		}
	}
	return i - f.width
}

// shiftAfter moves the time ranks of the columns later than t.
func (f *front) shiftAfter(t, by int32) {
	*f.r.work += int64(f.height)
	k := sort.Search(len(f.columns), func(k int) bool { return f.columns[k].time > t })
	if k < len(f.columns) {
		f.shiftFrom(k, point{t: by})
	}
}

// shiftAbove moves the count ranks of the corners with a count above c. Counts descend along the staircase, and the first
// column that shows at most c is a corner, as none before it does.
func (f *front) shiftAbove(c, by int32) {
	switch k := f.firstBelow(0, c+1); {
	case k < 0:
		f.nodes[1].shift(point{c: by})
	case k > 0:
		f.shiftBefore(k, point{c: by})
	}
}
