package testutil

import (
	"slices"
	"sync"
	"time"
)

// Clock is a clock that a test moves by hand. Its Now fits cache.ManagerOpt.Now, its AfterFunc
// metadata.WithAfterFunc. The methods may be called from any goroutine.
type Clock struct {
	mu     sync.Mutex
	now    time.Time
	serial int
	timers []*timer
}

type timer struct {
	at     time.Time
	serial int
	fn     func()
}

// NewClock returns a clock that stands at start, or at the present, in whole seconds, if start is zero.
// Leases expire by the backend's clock, so a clock far from the present has them gone or stay.
func NewClock(start time.Time) *Clock {
	if start.IsZero() {
		start = time.Now().Truncate(time.Second)
	}
	return &Clock{now: start}
}

// Now returns the time that the clock stands at.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// AfterFunc has fn called on a goroutine of its own when the clock has been moved by d, at once if d
// is not positive. stop prevents that and reports whether it could.
func (c *Clock) AfterFunc(d time.Duration, fn func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	t := &timer{at: c.now.Add(d), serial: c.serial, fn: fn}
	if d <= 0 {
		go fn()
		return func() bool { return false }
	}
	c.timers = append(c.timers, t)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.timers, t)
		if i < 0 {
			return false
		}
		c.timers = slices.Delete(c.timers, i, i+1)
		return true
	}
}

// Timers returns the number of functions that wait.
func (c *Clock) Timers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// Advance moves the clock forward and runs the functions that fall due, earliest first, each with
// the clock at its time. It returns when they have returned. A function may use the clock;
// what it adds falls due in the same Advance if it is in time.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	end := c.now.Add(max(d, 0))
	for {
		due := c.nextLocked(end)
		if due == nil {
			break
		}
		c.now = due.at
		c.mu.Unlock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			due.fn()
		}()
		<-done
		c.mu.Lock()
	}
	if end.After(c.now) { // a function may have advanced it further
		c.now = end
	}
	c.mu.Unlock()
}

// nextLocked takes out the first function that is due by end.
func (c *Clock) nextLocked(end time.Time) *timer {
	next := -1
	for i, t := range c.timers {
		if t.at.After(end) {
			continue
		}
		if next < 0 || t.at.Before(c.timers[next].at) || t.at.Equal(c.timers[next].at) && t.serial < c.timers[next].serial {
			next = i
		}
	}
	if next < 0 {
		return nil
	}
	t := c.timers[next]
	c.timers = slices.Delete(c.timers, next, next+1)
	if t.at.Before(c.now) {
		t.at = c.now
	}
	return t
}
