package cache_test

import (
	"cmp"
	"slices"
	"time"

	"github.com/layercache/cache/usage"
)

// This file is the model's prune.

// young tells whether a layer was used within limit; one never used was not (spec DU-6, PRN-9).
func (m *model) young(l *layer, limit time.Duration) bool {
	last := m.shown(l).lastUsed
	return limit > 0 && last != 0 && last > m.now.Add(-limit).UnixNano()
}

// policy is a prune policy (spec PRN-7 to PRN-10). match stands for its filter; budget asks for more free space than
// any disk has, so that everything eligible goes, but one by one in the order of PRN-12.
type policy struct {
	match       func(l *layer) bool
	all, budget bool
	keep        time.Duration
}

func (m *model) candidates(p policy) []*layer {
	var out []*layer
	for _, l := range m.layers {
		kind := m.shown(l).kind
		held, _ := m.live(l)
		child := slices.ContainsFunc(m.layers, func(c *layer) bool { return c.parent == l })
		protected := !p.all && (kind == usage.TypeInternal || kind == usage.TypeFrontend)
		if held == 0 && !child && !protected && !m.young(l, p.keep) && p.match(l) {
			out = append(out, l)
		}
	}
	return out
}

// prune applies a policy and returns what it deletes, in order (spec PRN-6, PRN-11, PRN-12). Without sizes all layers have one.
func (m *model) prune(p policy, sizes map[*layer]int64, name func(*half) string) (gone []usage.Info) {
	var total int64
	for _, size := range sizes {
		total += size
	}
	for {
		c := m.candidates(p)
		if len(c) == 0 || p.budget && sizes != nil && total <= 0 {
			return gone
		}
		next := m.lowest(c)
		total -= sizes[next]
		delete(sizes, next)
		gone = append(gone, m.info(next, name))
		m.remove(next)
	}
}

// lowest is the candidate that goes first (spec PRN-12). No two halves of a script are born at one time, so
// no tie is left for the IDs.
func (m *model) lowest(candidates []*layer) *layer {
	rank := func(key func(*half) int64) (of func(*layer) int64, top int64) {
		keys := []int64{}
		for _, l := range candidates {
			if k := key(m.shown(l)); k != 0 {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		keys = slices.Compact(keys)
		of = func(l *layer) int64 {
			k := key(m.shown(l))
			if k == 0 {
				return 1
			}
			i, _ := slices.BinarySearch(keys, k)
			return int64(i) + 2
		}
		for _, l := range candidates {
			top = max(top, of(l))
		}
		return of, top
	}
	byTime, topTime := rank(func(h *half) int64 { return h.lastUsed })
	byCount, topCount := rank(func(h *half) int64 { return int64(h.count) })
	return slices.MinFunc(candidates, func(a, b *layer) int {
		ha, hb := m.shown(a), m.shown(b)
		return cmp.Or(
			cmp.Compare(byTime(a)*topCount+byCount(a)*topTime, byTime(b)*topCount+byCount(b)*topTime),
			cmp.Compare(ha.lastUsed, hb.lastUsed),
			cmp.Compare(ha.count, hb.count),
			ha.created.Compare(hb.created),
		)
	})
}
