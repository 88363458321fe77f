//go:build race

package pruneplan_test

// growthSizes leave 64k to a run without the race detector, which makes it several times as slow and has nothing to find in one goroutine.
var growthSizes = []int{1 << 10, 4 << 10, 16 << 10}
