package plot

import "math"

// axis maps values to a range of pixels on a logarithmic scale.
type axis struct {
	lo, hi   float64 // values at the ends, from the sequence 1, 2, 5, 10, 20, ...
	from, to float64 // pixels
}

// steps are the mantissas at which an axis may end and have a line.
var steps = []float64{1, 2, 5}

// allLabels is up to how many decades an axis has a label at every line. A longer one has labels at powers of ten.
const allLabels = 2.5

// newAxis covers the values, which are positive, and never nothing.
func newAxis(values []float64, from, to float64) axis {
	lo, hi := math.Inf(1), 0.
	for _, v := range values {
		lo, hi = min(lo, v), max(hi, v)
	}
	a := axis{lo: stepBelow(lo), hi: stepAbove(hi), from: from, to: to}
	if a.lo == a.hi {
		a.hi = stepAbove(a.hi * 1.5)
	}
	return a
}

// step is mantissa times ten to the power. Powers of ten are exact where a float can hold them, products of
// logarithms are not.
func step(power int, mantissa float64) float64 { return mantissa * math.Pow10(power) }

// stepBelow is the greatest step that is not above v.
func stepBelow(v float64) float64 {
	power := int(math.Floor(math.Log10(v))) - 1 // one less, as a logarithm may be rounded up
	best := step(power, 1)
	for p := power; p <= power+2; p++ {
		for _, m := range steps {
			if s := step(p, m); s <= v {
				best = s
			}
		}
	}
	return best
}

// stepAbove is the least step that is not below v.
func stepAbove(v float64) float64 {
	for p := int(math.Floor(math.Log10(v))) - 1; ; p++ {
		for _, m := range steps {
			if s := step(p, m); s >= v {
				return s
			}
		}
	}
}

func (a axis) at(v float64) float64 {
	return a.from + (a.to-a.from)*math.Log(v/a.lo)/math.Log(a.hi/a.lo)
}

// tick is a line of the grid.
type tick struct {
	value float64
	// decade marks a power of ten.
	decade, labelled bool
}

func (a axis) ticks() []tick {
	every := math.Log10(a.hi/a.lo) <= allLabels
	var out []tick
	for p := int(math.Floor(math.Log10(a.lo))) - 1; step(p, 1) <= a.hi; p++ {
		for _, m := range steps {
			if v := step(p, m); v >= a.lo && v <= a.hi {
				out = append(out, tick{value: v, decade: m == 1, labelled: every || m == 1})
			}
		}
	}
	return out
}
