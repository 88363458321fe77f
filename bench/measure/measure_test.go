package measure_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/bench/measure"
)

// What finds the cache blocked is as late as the cache made it, one after the other.
func TestPaced(t *testing.T) {
	const blocked = 40 * time.Millisecond
	done, calls := make(chan struct{}), 0
	took, err := measure.Paced(t.Context(), done, func(context.Context) error {
		if calls++; calls == 1 {
			<-time.After(blocked) // the one thing that this is about
		}
		if calls == 100 {
			close(done)
		}
		return nil
	})
	require.NoError(t, err)
	require.Len(t, took, 100)
	require.GreaterOrEqual(t, took[0], float64(blocked))
	for i := 1; i < 100; i++ {
		require.GreaterOrEqual(t, took[i], float64(blocked)-float64(i)*float64(measure.Pace))
	}
	boom := errors.New("boom")
	_, err = measure.Paced(t.Context(), make(chan struct{}), func(context.Context) error { return boom })
	require.ErrorIs(t, err, boom)
}

func TestPercentile(t *testing.T) {
	var values []float64
	for i := range 200 {
		values = append(values, float64(200-i))
	}
	require.InDelta(t, 198, measure.Percentile(values, 99), 0)
	require.InDelta(t, 100, measure.Percentile(values, 50), 0)
	require.InDelta(t, 1, measure.Percentile(values, 0), 0)
	require.InDelta(t, 7, measure.Percentile([]float64{7}, 99), 0)
	require.True(t, math.IsNaN(measure.Percentile(nil, 99)))
}
