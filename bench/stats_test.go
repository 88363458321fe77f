package main

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	require.InDelta(t, 3, median([]float64{9, 1, 3}), 0)
	require.InDelta(t, 2.5, median([]float64{4, 1, 2, 3}), 0)
	require.True(t, math.IsNaN(median(nil)))
	values := []float64{2, 1}
	median(values)
	require.Equal(t, []float64{2, 1}, values, "the samples stay in their order")
}

func TestRatioIsNeverMetByAccident(t *testing.T) {
	require.InDelta(t, 2.5, ratio(5, 2), 0)
	for _, r := range []float64{ratio(5, 0), ratio(0, 0), ratio(math.NaN(), 1), ratio(1, math.NaN())} {
		require.Zero(t, r)
	}
}

func TestQuantity(t *testing.T) {
	for want, v := range map[string]float64{
		"0.50 ns": 0.5, "12.3 ns": 12.34, "480 ns": 480, "1.20 us": 1200, "4.58 ms": 4.58e6, "1234 s": 1.234e12,
	} {
		require.Equal(t, want, quantity(v, unitTime))
	}
	require.Equal(t, "1536 B", quantity(1536, "B"))
	require.Equal(t, "1.50 KiB", quantity(1.5, "KiB"))
	require.Equal(t, "-", plain(nil))
	require.InDelta(t, 2e6, perOp(time.Second, 500), 0)
}
