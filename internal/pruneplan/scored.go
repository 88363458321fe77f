package pruneplan

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
)

// line puts the eligible items into a fixed order, so that comparing two of them is comparing their places.
type line struct {
	items []int32 // by place
	place []int32 // by item, of eligible ones
}

// spot is what puts an item into its place, beside each other in memory: an Item is several cache lines.
type spot struct {
	score                    float64
	lastUsed, count, created int64
	item                     int32
}

// newLine sorts the eligible items: by their scores, where there are such, then as ties go. It returns what they were sorted by, too, by
// place.
func newLine(items []Item, scores []float64, work *int64) (line, []spot) {
	spots := make([]spot, 0, len(items))
	for i := range items {
		it := &items[i]
		if !it.Eligible {
			continue
		}
		s := spot{lastUsed: max(it.LastUsed, 0), count: max(it.Count, 0), created: it.Created, item: int32(i)}
		if scores != nil {
			s.score = scores[i]
		}
		spots = append(spots, s)
	}
	slices.SortFunc(spots, func(a, b spot) int {
		*work++
		switch {
		case a.score != b.score:
			return cmp.Compare(a.score, b.score)
		case a.lastUsed != b.lastUsed:
			return cmp.Compare(a.lastUsed, b.lastUsed)
		case a.count != b.count:
			return cmp.Compare(a.count, b.count)
		case a.created != b.created:
			return cmp.Compare(a.created, b.created)
		}
		return cmp.Or(strings.Compare(items[a.item].ID, items[b.item].ID), cmp.Compare(a.item, b.item))
	})
	l := line{items: make([]int32, len(spots)), place: make([]int32, len(items))}
	for p, s := range spots {
		l.items[p], l.place[s.item] = s.item, int32(p)
	}
	return l, spots
}

// scored is the order by scores that do not change: a heap of places.
type scored struct {
	line
	places []int32
	work   *int64
}

func newScored(items []Item, scores []float64, work *int64) *scored {
	l, _ := newLine(items, scores, work)
	return &scored{line: l, work: work}
}

func (s *scored) add(items []int) {
	for _, i := range items {
		heap.Push(s, s.place[i])
	}
}

func (s *scored) take() (int, bool) {
	if len(s.places) == 0 {
		return 0, false
	}
	p, _ := heap.Pop(s).(int32)
	return int(s.items[p]), true
}

// Len, Less, Swap, Push and Pop are the heap's.

func (s *scored) Len() int { return len(s.places) }

func (s *scored) Less(i, j int) bool {
	*s.work++
	return s.places[i] < s.places[j]
}

func (s *scored) Swap(i, j int) { s.places[i], s.places[j] = s.places[j], s.places[i] }

func (s *scored) Push(x any) {
	p, _ := x.(int32)
	s.places = append(s.places, p)
}

func (s *scored) Pop() any {
	last := len(s.places) - 1
	p := s.places[last]
	s.places = s.places[:last]
	return p
}
