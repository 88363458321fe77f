package measure

import (
	"context"
	"math"
	"slices"
	"time"
)

// Pace is how often Paced makes a call.
const Pace = 250 * time.Microsecond

// Paced calls op at a steady pace until done is closed, and at least once, and returns how long each call took in nanoseconds.
// A caller that comes while the one before still waits begins to wait when it comes, not when it is its turn: one call
// that took 100 ms would otherwise stand for the 400 that found the cache blocked.
func Paced(ctx context.Context, done <-chan struct{}, op func(ctx context.Context) error) ([]float64, error) {
	var took []float64
	timer := time.NewTimer(0)
	defer timer.Stop()
	for due := time.Now(); ; due = due.Add(Pace) {
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-done:
			}
			due = time.Now() // how late a timer is says nothing of the cache
		}
		if err := op(ctx); err != nil {
			return took, err
		}
		took = append(took, float64(time.Since(due).Nanoseconds()))
		select {
		case <-done:
			return took, nil
		default:
		}
	}
}

// Percentile is the smallest value that so many percent of all do not exceed; NaN for none.
func Percentile(values []float64, percent float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, int(math.Ceil(percent/100*float64(len(s))))-1)]
}
