package measure

import (
	"math"
	"strconv"
)

// Duration words nanoseconds.
func Duration(ns float64) string {
	switch {
	case ns < 1e3:
		return Significant(ns) + " ns"
	case ns < 1e6:
		return Significant(ns/1e3) + " us"
	case ns < 1e9:
		return Significant(ns/1e6) + " ms"
	}
	return Significant(ns/1e9) + " s"
}

// Significant prints three digits, more only before the decimal point.
func Significant(v float64) string {
	decimals := 0
	for limit := 100.0; decimals < 2 && math.Abs(v) < limit; limit /= 10 {
		decimals++
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}
