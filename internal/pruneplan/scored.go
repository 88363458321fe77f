package pruneplan

import (
	"cmp"
	"container/heap"
	"slices"
)

// line puts the eligible items into a fixed order, so that comparing two of them is comparing their places.
type line struct {
	items []int   // by place
	place []int32 // by item, of eligible ones
}

// newLine sorts the eligible items: by what first says, then as ties go.
func newLine(items []Item, first func(a, b int) int, work *int64) line {
	l := line{place: make([]int32, len(items))}
	for i := range items {
		if items[i].Eligible {
			l.items = append(l.items, i)
		}
	}
	slices.SortFunc(l.items, func(i, j int) int {
		*work++
		if c := first(i, j); c != 0 {
			return c
		}
		a, b := &items[i], &items[j]
		return cmp.Or(
			cmp.Compare(max(a.LastUsed, 0), max(b.LastUsed, 0)),
			cmp.Compare(max(a.Count, 0), max(b.Count, 0)),
			cmp.Compare(a.Created, b.Created),
			cmp.Compare(a.ID, b.ID),
			cmp.Compare(i, j),
		)
	})
	for p, i := range l.items {
		l.place[i] = int32(p)
	}
	return l
}

// scored is the order by scores that do not change: a heap of places.
type scored struct {
	line
	places []int32
	work   *int64
}

func newScored(items []Item, scores []float64, work *int64) *scored {
	byScore := func(i, j int) int { return cmp.Compare(scores[i], scores[j]) }
	return &scored{line: newLine(items, byScore, work), work: work}
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
	return s.items[p], true
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
