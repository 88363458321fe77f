package pruneplan_test

import (
	"cmp"
	"slices"

	"github.com/layercache/cache/internal/pruneplan"
)

// This file is spec PRN-4, PRN-7, PRN-11 and PRN-12 word by word: everything is looked at again for every deletion.

type oracle struct {
	items []pruneplan.Item
	sizes []int64
	gone  []bool
	// scores takes the place of the ranks if there are any.
	scores []float64
	// counted and all are what space said last.
	counted, all int64
}

func newOracle(items []pruneplan.Item, sizes []int64, scores []float64) *oracle {
	o := &oracle{items: items, sizes: sizes, gone: make([]bool, len(items)), scores: scores}
	o.counted, o.all = o.space()
	return o
}

// candidates are the eligible ones that no record names which is still there. strangers are links from records that are no items.
func (o *oracle) candidates() (out []int) {
	named := make([]int, len(o.items))
	strangers := make([]int, len(o.items))
	for i := range o.items {
		strangers[i] += o.items[i].Links
		for _, p := range o.items[i].Parents {
			strangers[p]--
			if !o.gone[i] {
				named[p]++
			}
		}
	}
	for i := range o.items {
		if !o.gone[i] && o.items[i].Eligible && named[i] == 0 && strangers[i] == 0 {
			out = append(out, i)
		}
	}
	return out
}

// rank sorts the candidates by a key and numbers its distinct values, 0 having 1 and the first other one 2.
func (o *oracle) rank(candidates []int, key func(int) int64) (of []int64, top int64) {
	sorted := slices.Clone(candidates)
	slices.SortFunc(sorted, func(a, b int) int { return cmp.Compare(key(a), key(b)) })
	of = make([]int64, len(o.items))
	last, top := int64(0), int64(1)
	for _, i := range sorted {
		if k := key(i); k != last {
			last, top = k, top+1
		}
		of[i] = top
	}
	return of, top
}

func (o *oracle) lowest(candidates []int) int {
	time := func(i int) int64 { return o.items[i].LastUsed }
	count := func(i int) int64 { return o.items[i].Count }
	timeRank, maxTime := o.rank(candidates, time)
	countRank, maxCount := o.rank(candidates, count)
	score := func(i int) float64 { return float64(timeRank[i]*maxCount + countRank[i]*maxTime) } // small, so exact
	if o.scores != nil {
		score = func(i int) float64 { return o.scores[i] }
	}
	return slices.MinFunc(candidates, func(a, b int) int {
		return cmp.Or(
			cmp.Compare(score(a), score(b)),
			cmp.Compare(time(a), time(b)),
			cmp.Compare(count(a), count(b)),
			cmp.Compare(o.items[a].Created, o.items[b].Created),
			cmp.Compare(o.items[a].ID, o.items[b].ID),
		)
	})
}

// space adds up the objects that an item still has, and those of them that no shared item ever had.
func (o *oracle) space() (counted, all int64) {
	owned, shared := make([]bool, len(o.sizes)), make([]bool, len(o.sizes))
	for i := range o.items {
		for _, obj := range o.items[i].Objects {
			owned[obj] = owned[obj] || !o.gone[i]
			shared[obj] = shared[obj] || o.items[i].Shared
		}
	}
	for obj, size := range o.sizes {
		if owned[obj] {
			all += max(size, 0)
		}
		if owned[obj] && !shared[obj] {
			counted += max(size, 0)
		}
	}
	return counted, all
}

func (o *oracle) next() (pruneplan.Step, bool) {
	candidates := o.candidates()
	if len(candidates) == 0 {
		return pruneplan.Step{}, false
	}
	return o.remove(o.lowest(candidates)), true
}

func (o *oracle) remove(i int) pruneplan.Step {
	o.gone[i] = true
	counted, all := o.space()
	step := pruneplan.Step{Item: i, Freed: o.all - all, Counted: o.counted - counted}
	o.counted, o.all = counted, all
	return step
}
