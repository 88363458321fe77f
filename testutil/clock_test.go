package testutil_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil"
)

// TestClock: functions run in the order of their times, with the clock at that time.
func TestClock(t *testing.T) {
	start := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	c := testutil.NewClock(start)
	require.Equal(t, start, c.Now())
	var ran []string
	note := func(name string) func() {
		return func() { ran = append(ran, name+c.Now().Sub(start).String()) }
	}
	c.AfterFunc(3*time.Second, note("c"))
	c.AfterFunc(time.Second, func() {
		note("a")()
		c.AfterFunc(time.Second, note("b"))
		c.AfterFunc(time.Hour, note("late"))
	})
	stop := c.AfterFunc(2*time.Second, note("stopped"))
	require.True(t, stop())
	require.False(t, stop())
	c.Advance(time.Second - 1)
	require.Empty(t, ran)
	require.Equal(t, 2, c.Timers())
	c.Advance(5 * time.Second)
	require.Equal(t, []string{"a1s", "b2s", "c3s"}, ran)
	require.Equal(t, start.Add(6*time.Second-1), c.Now())
	require.Equal(t, 1, c.Timers())
	c.Advance(-time.Hour)
	require.Equal(t, start.Add(6*time.Second-1), c.Now(), "it never goes back")
	require.WithinDuration(t, time.Now(), testutil.NewClock(time.Time{}).Now(), 2*time.Second)
}

// TestClockStopAfterRun: a function that has run cannot be stopped, and one that is due at once runs.
func TestClockStopAfterRun(t *testing.T) {
	c := testutil.NewClock(time.Time{})
	var wg sync.WaitGroup
	wg.Add(2)
	stop := c.AfterFunc(time.Minute, wg.Done)
	c.Advance(time.Minute)
	require.False(t, stop())
	require.False(t, c.AfterFunc(0, wg.Done)())
	wg.Wait()
}
