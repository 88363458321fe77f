// Package fault numbers every call that a program makes to its storage backend, and lets a test
// fail, cancel, block or kill the program at any of them.
//
// A Faults wraps the parts of a backend. Each call to a wrapped part passes two points, one
// before the real call and one after it, numbered from 1 in the order they are reached. A test
// runs an operation once to learn how many points it has, then once per point with something
// bad happening there:
//
//	f := fault.New()
//	total := run(f)                     // f.Len() points
//	for n := 1; n <= total; n++ {
//		f.Reset()
//		f.FailAt(n, errBackend)
//		run(f)                          // then check that nothing was lost
//		require.Empty(t, f.Pending())   // the fault did happen
//	}
//
// Failing at a point before a call means that the call was never made; failing at the point after
// it means that it was made and the answer got lost. A call whose context has ended fails with the
// context's error at either point, as a call to a containerd in another process would: code that
// cleans up with its caller's context is found out.
//
// The package imports nothing of the cache, so that the tests of every package can use it.
package fault

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// When tells on which side of the real call a point lies.
type When uint8

// The sides of a call. The zero value stands for either where a Match is asked for.
const (
	// Before: the call has not been made.
	Before When = 1 + iota
	// After: the call has returned.
	After
)

// String returns "before" or "after".
func (w When) String() string {
	switch w {
	case Before:
		return "before"
	case After:
		return "after"
	}
	return "any"
}

// Point is a place that a call to the backend passes.
type Point struct {
	// N is the number of the point, from 1 since New or the last Reset.
	N int
	// Op names part and method, such as "leases.Create". The Op constants list them.
	Op string
	// Key is what the call is about: the ID, key, digest or ref among its arguments, or "".
	Key string
	// When tells on which side of the call the point lies.
	When When
}

// String returns the point on one line, for logs.
func (p Point) String() string {
	return fmt.Sprintf("%3d %-6s %s %s", p.N, p.When, p.Op, p.Key)
}

// Trace is a list of points in the order they were reached.
type Trace []Point

// String returns one line per point.
func (t Trace) String() string {
	var sb strings.Builder
	for _, p := range t {
		sb.WriteString(p.String())
		sb.WriteByte('\n')
	}
	return sb.String()
}

// Ops returns the operations of the calls, once each call, in order: a form that does not change
// with random keys and can be compared between runs.
func (t Trace) Ops() []string {
	var ops []string
	for _, p := range t {
		if p.When == Before {
			ops = append(ops, p.Op)
		}
	}
	return ops
}

// Match selects points. Zero fields match everything.
type Match struct {
	// N is the number of one point.
	N int
	// Op and Key are patterns in which each * stands for any text.
	Op, Key string
	// When is one side of the call.
	When When
	// Times limits how often the injection happens; 0 means every time.
	Times int
}

func (m Match) matches(p Point) bool {
	return (m.N == 0 || m.N == p.N) && (m.When == 0 || m.When == p.When) &&
		(m.Op == "" || glob(m.Op, p.Op)) && (m.Key == "" || glob(m.Key, p.Key))
}

func (m Match) String() string {
	return fmt.Sprintf("n=%d op=%q key=%q when=%s", m.N, m.Op, m.Key, m.When)
}

// glob reports whether text matches a pattern whose only special character is the star.
func glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(text, first) {
		return false
	}
	text = text[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return strings.HasSuffix(text, last)
}

// Action is what happens at a point. An error makes the call fail with it. Backend calls made
// with the context it gets, or one made of it, pass no points.
type Action func(ctx context.Context, p Point) error

// Injection is an action in place.
type Injection struct {
	f     *Faults
	match Match
	do    Action
	fired int
}

// Fired returns how often the action has happened.
func (i *Injection) Fired() int {
	i.f.mu.Lock()
	defer i.f.mu.Unlock()
	return i.fired
}

// Remove takes the injection back. It may be called more than once.
func (i *Injection) Remove() {
	i.f.mu.Lock()
	defer i.f.mu.Unlock()
	for k, other := range i.f.injections {
		if other == i {
			i.f.injections = append(i.f.injections[:k:k], i.f.injections[k+1:]...)
			return
		}
	}
}

// Faults numbers the points and holds what is to happen at them. All methods may be called at
// any time from any goroutine. A nil *Faults is no valid receiver.
type Faults struct {
	mu         sync.Mutex
	trace      Trace
	calls      map[string]int
	injections []*Injection
	hooks      []func(Point)
	paused     int
}

// New returns a Faults at which nothing happens yet.
func New() *Faults {
	return &Faults{calls: map[string]int{}}
}

// Reset forgets the points passed so far and all injections, and starts numbering from 1. The
// hooks of OnPoint stay. Calls that are under way pass their second point under a new number.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace, f.calls, f.injections = nil, map[string]int{}, nil
}

// Len returns the number of points passed since New or Reset.
func (f *Faults) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.trace)
}

// Trace returns a copy of the list of points passed since New or Reset.
func (f *Faults) Trace() Trace {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(Trace(nil), f.trace...)
}

// Count returns the number of calls whose operation matches the pattern, in which * stands for
// any text. A call counts once, however it ends.
func (f *Faults) Count(pattern string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for op, calls := range f.calls {
		if glob(pattern, op) {
			n += calls
		}
	}
	return n
}

// Counts returns the number of calls per operation.
func (f *Faults) Counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := make(map[string]int, len(f.calls))
	for op, n := range f.calls {
		counts[op] = n
	}
	return counts
}

// Pending lists the injections that have not happened. A test that ends with one of them did not
// test what it meant to.
func (f *Faults) Pending() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var pending []string
	for _, i := range f.injections {
		if i.fired == 0 {
			pending = append(pending, i.match.String())
		}
	}
	return pending
}

// OnPoint has fn called at every point from now on, on the calling goroutine and before anything
// injected there. It is where a test asserts what must hold whenever the backend is called,
// such as that a mutex is free.
func (f *Faults) OnPoint(fn func(Point)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks = append(f.hooks[:len(f.hooks):len(f.hooks)], fn)
}

// Inject puts an action in place at all points that match. At a point with several matching
// injections they happen in the order they were put in place, until one returns an error.
func (f *Faults) Inject(m Match, do Action) *Injection {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := &Injection{f: f, match: m, do: do}
	f.injections = append(f.injections, i)
	return i
}

type quietKey struct{}

// Quiet returns a context whose backend calls pass no points: for what a test itself does
// in between.
func Quiet(ctx context.Context) context.Context {
	return context.WithValue(ctx, quietKey{}, true)
}

// Quietly runs fn. Until it returns no call of any goroutine passes a point: for what a test does
// itself with parts whose calls carry no context.
func (f *Faults) Quietly(fn func()) {
	add := func(n int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.paused += n
	}
	add(1)
	defer add(-1)
	fn()
}

// hit passes a point. Actions and hooks run without the mutex, so that they may use f and block.
func (f *Faults) hit(ctx context.Context, op, key string, when When) error {
	if quiet, _ := ctx.Value(quietKey{}).(bool); quiet {
		return nil
	}
	f.mu.Lock()
	if f.paused > 0 {
		f.mu.Unlock()
		return nil
	}
	p := Point{N: len(f.trace) + 1, Op: op, Key: key, When: when}
	f.trace = append(f.trace, p)
	if when == Before {
		f.calls[op]++
	}
	hooks := f.hooks
	var due []*Injection
	for _, i := range f.injections {
		if i.match.matches(p) && (i.match.Times == 0 || i.fired < i.match.Times) {
			i.fired++
			due = append(due, i)
		}
	}
	f.mu.Unlock()

	for _, hook := range hooks {
		hook(p)
	}
	for _, i := range due {
		if err := i.do(Quiet(ctx), p); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Call passes the point before a call, makes the call, and passes the point after it. The call's own
// error takes precedence over what happens after it. The wrappers of this package are made of
// Call; a test can use it for parts that the package does not know.
func (f *Faults) Call(ctx context.Context, op, key string, call func() error) error {
	if err := f.hit(ctx, op, key, Before); err != nil {
		return err
	}
	err := call()
	if after := f.hit(ctx, op, key, After); err == nil {
		err = after
	}
	return err
}

// get is Call for calls that return something, which nobody gets with an error.
func get[T any](ctx context.Context, f *Faults, op, key string, call func() (T, error)) (T, error) {
	var out, none T
	err := f.Call(ctx, op, key, func() (err error) {
		out, err = call()
		return err
	})
	if err != nil {
		return none, err
	}
	return out, nil
}
