package cache

import (
	"cmp"
	"slices"

	"github.com/layercache/cache/internal/graph"
)

// lowestScore returns the candidate that goes first in budget mode (spec PRN-12): little used long ago.
// Ranks are taken among the candidates at hand, so they change with every deletion.
func lowestScore(candidates []*graph.View) *graph.View {
	timeRank := rank(candidates, func(v *graph.View) int64 { return v.Meta.LastUsedAt })
	countRank := rank(candidates, func(v *graph.View) int64 { return int64(v.Meta.UsageCount) })
	var maxTime, maxCount int64
	for _, v := range candidates {
		maxTime = max(maxTime, timeRank[v])
		maxCount = max(maxCount, countRank[v])
	}
	return slices.MinFunc(candidates, func(a, b *graph.View) int {
		return cmp.Or(
			cmp.Compare(score(timeRank[a], countRank[a], maxTime, maxCount), score(timeRank[b], countRank[b], maxTime, maxCount)),
			cmp.Compare(a.Meta.LastUsedAt, b.Meta.LastUsedAt),
			cmp.Compare(a.Meta.UsageCount, b.Meta.UsageCount),
			cmp.Compare(a.Meta.CreatedAt, b.Meta.CreatedAt),
			cmp.Compare(a.Meta.ID, b.Meta.ID),
		)
	})
}

// score is timeRank/maxTime + countRank/maxCount over the common denominator, so that ties are real
// ties. Ranks are at most the number of records, whose square fits.
func score(timeRank, countRank, maxTime, maxCount int64) int64 {
	return timeRank*maxCount + countRank*maxTime
}

// rank numbers the distinct values of a key from 2 upwards; zero, the never used, has rank 1.
func rank(candidates []*graph.View, key func(*graph.View) int64) map[*graph.View]int64 {
	sorted := slices.Clone(candidates)
	slices.SortFunc(sorted, func(a, b *graph.View) int { return cmp.Compare(key(a), key(b)) })
	out := make(map[*graph.View]int64, len(sorted))
	last, r := int64(0), int64(1)
	for _, v := range sorted {
		if k := key(v); k != last {
			last = k
			r++
		}
		out[v] = r
	}
	return out
}
