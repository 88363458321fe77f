//go:build race

package pruneplan_test

// growthSizes leave 16k and 64k to runs without the race detector, which makes them several times as slow and has nothing to find in one goroutine.
var growthSizes = []int{1 << 10, 4 << 10}
