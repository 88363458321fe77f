package pruneplan

import (
	"math"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Item is a record of the cache as a plan sees it.
type Item struct {
	// LastUsed and Created are points in time in any unit, larger is later. LastUsed is 0 if the record was never used;
	// less than 0 is taken for 0.
	LastUsed, Created int64
	// Count is how often the record was used; less than 0 is taken for 0.
	Count int64
	// ID is the last resort of ties.
	ID string
	// Parents are indexes of the items that this one lies on. A parent that the record names twice is there twice.
	Parents []int
	// Links counts how often records of the whole cache name this one as a parent. Those that are no items, and the items
	// that never go, keep it from ever being a candidate.
	Links int
	// Eligible says that the record may go once no other lies on it.
	Eligible bool
	// Shared says that somebody outside the cache refers to the record. Whether it is eligible is the caller's decision.
	Shared bool
	// Objects are indexes of the sizes of the physical objects that the record owns, alone or together with others.
	Objects []int
}

// Step is the deletion of one item.
type Step struct {
	// Item is the index of the item.
	Item int
	// Freed is the size in bytes of the objects that no item owns any more after this deletion.
	Freed int64
	// Counted is the part of Freed that Total contains: all but what a shared item owned as well, be it deleted before or now.
	Counted int64
}

// Plan is a sequence of deletions that is worked out as it is asked for. It is not safe for concurrent use.
type Plan struct {
	items  []Item
	sizes  []int64
	links  []int
	owners []int  // of each object
	shared []bool // objects that a shared item owned from the beginning
	total  int64
	order  order
	// work counts elementary steps: comparisons, looks at a node of a tree, elements copied.
	work int64
}

// order decides which candidate goes next.
type order interface {
	// add takes items that became candidates.
	add(items []int)
	// take removes and returns the candidate that goes next.
	take() (item int, ok bool)
}

// New plans for a budget: the lowest score of spec PRN-12 first, ranks being taken among the candidates of each moment.
// Equal scores go by earlier last use, lower count, older creation, ID.
//
// items are all records that own objects, eligible or not; sizes are those of the objects in bytes, where less than 0 stands
// for an unknown one and counts as 0. The plan keeps both slices, and nobody may change them while it is in use. An index out of range, or a
// number of links below what the items themselves say, is an invalid argument (errdefs).
func New(items []Item, sizes []int64) (*Plan, error) {
	p, err := newPlan(items, sizes)
	if err != nil {
		return nil, err
	}
	return p.start(newRanked(items, &p.work)), nil
}

// NewScored plans for a budget with scores of the caller's own, one for each item, which do not change: the lowest goes first.
// Equal scores go as with New. A score that is not a number is an invalid argument (errdefs).
func NewScored(items []Item, sizes []int64, scores []float64) (*Plan, error) {
	p, err := newPlan(items, sizes)
	if err != nil {
		return nil, err
	}
	if len(scores) != len(items) {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "%d scores for %d items", len(scores), len(items))
	}
	for i, s := range scores {
		if math.IsNaN(s) {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "score of item %d (%s) is not a number", i, items[i].ID)
		}
	}
	return p.start(newScored(items, scores, &p.work)), nil
}

// NewPlain plans the deletion of everything eligible. Children go before their parents: first all that nothing lies on, in the
// order of items, then what nothing lies on any more, and so on.
func NewPlain(items []Item, sizes []int64) (*Plan, error) {
	p, err := newPlan(items, sizes)
	if err != nil {
		return nil, err
	}
	return p.start(&waves{}), nil
}

func newPlan(items []Item, sizes []int64) (*Plan, error) {
	p := &Plan{
		items:  items,
		sizes:  sizes,
		links:  make([]int, len(items)),
		owners: make([]int, len(sizes)),
		shared: make([]bool, len(sizes)),
	}
	for i := range items {
		it := &items[i]
		for _, parent := range it.Parents {
			if parent < 0 || parent >= len(items) {
				return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "item %d (%s) has item %d of %d as a parent", i, it.ID, parent, len(items))
			}
			p.links[parent]++
		}
		for _, o := range it.Objects {
			if o < 0 || o >= len(sizes) {
				return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "item %d (%s) owns object %d of %d", i, it.ID, o, len(sizes))
			}
			p.owners[o]++
			p.shared[o] = p.shared[o] || it.Shared
		}
	}
	for i := range items {
		if items[i].Links < p.links[i] {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "item %d (%s) has %d links, but items name it %d times", i, items[i].ID, items[i].Links, p.links[i])
		}
		p.links[i] = items[i].Links
	}
	for o := range sizes {
		if p.owners[o] > 0 && !p.shared[o] {
			p.total = sum(p.total, sizes[o])
		}
	}
	return p, nil
}

// start hands the candidates that are there from the beginning to the order.
func (p *Plan) start(o order) *Plan {
	p.order = o
	var first []int
	for i := range p.items {
		if p.items[i].Eligible && p.links[i] == 0 {
			first = append(first, i)
		}
	}
	o.add(first)
	return p
}

// Total returns how many bytes the items occupied before the first step: each object once, without those that a shared
// item owns (spec PRN-4).
func (p *Plan) Total() int64 { return p.total }

// Next returns the next deletion and takes it as done. It returns false when nothing is left that may go.
func (p *Plan) Next() (Step, bool) {
	i, ok := p.order.take()
	if !ok {
		return Step{}, false
	}
	step := Step{Item: i}
	for _, o := range p.items[i].Objects {
		if p.owners[o]--; p.owners[o] > 0 {
			continue
		}
		step.Freed = sum(step.Freed, p.sizes[o])
		if !p.shared[o] {
			step.Counted = sum(step.Counted, p.sizes[o])
		}
	}
	var parents []int
	for _, parent := range p.items[i].Parents {
		if p.links[parent]--; p.links[parent] == 0 && p.items[parent].Eligible {
			parents = append(parents, parent)
		}
	}
	p.order.add(parents)
	return step, true
}

// sum adds a size, of which less than 0 stands for unknown. It stops at the largest number, so that absurd sizes do not turn into a
// negative total.
func sum(a, size int64) int64 {
	if size = max(size, 0); a > math.MaxInt64-size {
		return math.MaxInt64
	}
	return a + size
}

// waves is the order of plain mode: all candidates in the order of items, then those that the deletion of these made candidates, and so
// on. The caller's order of items is that of their rows on disk, so that deletions one after the other concern the same pages.
type waves struct{ now, next []int }

func (w *waves) add(items []int) { w.next = append(w.next, items...) }

func (w *waves) take() (int, bool) {
	if len(w.now) == 0 {
		if len(w.next) == 0 {
			return 0, false
		}
		slices.Sort(w.next)
		w.now, w.next = w.next, nil
	}
	i := w.now[0]
	w.now = w.now[1:]
	return i, true
}
