package pruneplan

import (
	"math/bits"
	"slices"
)

// ranked is the order of spec PRN-12.
type ranked struct {
	line
	times, counts ranking
	// fronts hold the candidates; the bit length of the number they were made of descends strictly.
	fronts []*front
	work   *int64
}

func newRanked(items []Item, work *int64) *ranked {
	l, spots := newLine(items, nil, work)
	r := &ranked{line: l, work: work}
	r.times = newRanking(spots, func(s *spot) int64 { return s.lastUsed }, work)
	r.counts = newRanking(spots, func(s *spot) int64 { return s.count }, work)
	return r
}

// add makes a front of the new candidates and of the last fronts while their numbers have no more digits (binary ones) than what has come
// together. So digits descend from front to front, and an item that moves gets to a front with more digits than before, or is one of
// those that came along with more items that do; n items are moved O(n log n) times.
func (r *ranked) add(items []int) {
	if len(items) == 0 {
		return
	}
	places := make([]int32, len(items))
	for k, i := range items {
		places[k] = r.place[i]
	}
	slices.Sort(places)
	*r.work += int64(len(places) * bits.Len(uint(len(places))))
	for _, p := range places {
		if t := r.times.of[p]; r.times.enter(t) {
			r.shiftTimes(t, 1)
		}
		if c := r.counts.of[p]; r.counts.enter(c) {
			r.shiftCounts(c, 1)
		}
	}
	for len(r.fronts) > 0 {
		last := r.fronts[len(r.fronts)-1]
		if bits.Len(uint(last.built)) > bits.Len(uint(len(places))) {
			break
		}
		places = merge(places, last.rest())
		*r.work += int64(len(places))
		r.fronts = slices.Delete(r.fronts, len(r.fronts)-1, len(r.fronts))
	}
	r.fronts = append(r.fronts, newFront(r, places))
}

// take finds the lowest score among the lowest ones of the fronts. Equal scores go by place.
func (r *ranked) take() (int, bool) {
	if len(r.fronts) == 0 {
		return 0, false
	}
	maxTime, maxCount := r.times.top(), r.counts.top()
	from, column, place, score := -1, 0, int32(0), int64(0)
	for k, f := range r.fronts {
		c, s := f.lowest(maxTime, maxCount)
		*r.work++
		if p := f.first(c); from < 0 || s < score || s == score && p < place {
			from, column, place, score = k, c, p, s
		}
	}
	f := r.fronts[from]
	f.drop(column)
	if f.live == 0 {
		r.fronts = slices.Delete(r.fronts, from, from+1)
	}
	if t := r.times.of[place]; r.times.leave(t) {
		r.shiftTimes(t, -1)
	}
	if c := r.counts.of[place]; r.counts.leave(c) {
		r.shiftCounts(c, -1)
	}
	return int(r.items[place]), true
}

// shiftTimes moves the time ranks of all candidates that were used later than t.
func (r *ranked) shiftTimes(t, by int32) {
	for _, f := range r.fronts {
		f.shiftAfter(t, by)
	}
}

// shiftCounts moves the count ranks of all candidates that were used more often than c.
func (r *ranked) shiftCounts(c, by int32) {
	for _, f := range r.fronts {
		f.shiftAbove(c, by)
	}
}

// merge merges two ascending slices.
func merge(a, b []int32) []int32 {
	out := make([]int32, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// ranking numbers the distinct values of a key among the candidates. A value is known by its index among those of all eligible
// items, 0 standing for the value 0, whether there is one or not.
type ranking struct {
	of      []int32 // the value of an item, by place
	present []int32 // how many candidates have a value
	tree    []int32 // Fenwick: how many values other than 0 are present
	used    int32   // the sum of it
	work    *int64
}

// newRanking numbers a key of all eligible items, which come by place.
func newRanking(spots []spot, key func(*spot) int64, work *int64) ranking {
	values := make([]int64, 1, len(spots)+1)
	for p := range spots {
		values = append(values, key(&spots[p]))
	}
	if !slices.IsSorted(values) { // last uses are, as places go by them
		slices.Sort(values)
	}
	values = slices.Compact(values)
	r := ranking{
		of:      make([]int32, len(spots)),
		present: make([]int32, len(values)),
		tree:    make([]int32, len(values)),
		work:    work,
	}
	v := 0
	for p := range spots {
		k := key(&spots[p])
		if values[v] != k { // the same as the one before or the next one, mostly
			if v++; v == len(values) || values[v] != k {
				v, _ = slices.BinarySearch(values, k)
			}
		}
		r.of[p] = int32(v)
	}
	*work += int64(2 * len(spots) * bits.Len(uint(len(values))))
	return r
}

// rank is 1 for the value 0; the lowest other value among the candidates has rank 2, even if none has 0.
func (r *ranking) rank(v int32) int32 {
	n := int32(1)
	for ; v > 0; v &= v - 1 {
		*r.work++
		n += r.tree[v]
	}
	return n
}

// top is the highest rank.
func (r *ranking) top() int32 { return r.used + 1 }

// enter counts a candidate in and tells whether it moves the ranks of others.
func (r *ranking) enter(v int32) bool {
	r.present[v]++
	return r.present[v] == 1 && r.move(v, 1)
}

// leave counts a candidate out and tells whether it moves the ranks of others.
func (r *ranking) leave(v int32) bool {
	r.present[v]--
	return r.present[v] == 0 && r.move(v, -1)
}

func (r *ranking) move(v, by int32) bool {
	if v == 0 {
		return false
	}
	r.used += by
	for ; int(v) < len(r.tree); v += v & -v {
		*r.work++
		r.tree[v] += by
	}
	return true
}
