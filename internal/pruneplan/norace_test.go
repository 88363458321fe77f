//go:build !race

package pruneplan_test

var growthSizes = []int{1 << 10, 4 << 10, 16 << 10, 64 << 10}
