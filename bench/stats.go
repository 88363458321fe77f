package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/layercache/cache/bench/measure"
)

// median is the middle of values, or the mean of the two middle ones; NaN for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// ratio is peer / ours, 0 where there is none, so that no target is met by accident and JSON can hold it.
func ratio(peer, ours float64) float64 {
	r := peer / ours
	if math.IsNaN(r) || math.IsInf(r, 0) {
		return 0
	}
	return r
}

// perOp is the time of one of n operations, in nanoseconds.
func perOp(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / float64(n) }

// quantity words a value with its unit.
func quantity(v float64, unit string) string {
	if unit != unitTime {
		return plain(&v) + " " + unit
	}
	return measure.Duration(v)
}

// unitTime is the unit of times per operation.
const unitTime = "ns/op"

// plain prints a count as it is, with two decimals if it has any, and - for none.
func plain(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v == math.Trunc(*v):
		return strconv.FormatFloat(*v, 'f', 0, 64)
	}
	return fmt.Sprintf("%.2f", *v)
}
