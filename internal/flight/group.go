package flight

import (
	"context"
	"sync"
	"time"

	"github.com/pkg/errors"
)

// Group executes a function once for all callers that want the result for the same key at the
// same time. Results are not kept. The zero value is ready to use.
//
// The function runs in a goroutine of its own under a context that ends when every waiter has
// given up, and that looks values up in the waiters' contexts, those that have gone included, in
// the order in which they came. A caller that arrives while an abandoned execution is still being
// torn down waits for its end and then starts anew.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
	wg    sync.WaitGroup
}

type call[V any] struct {
	done    chan struct{} // closed after val and err are set
	val     V
	err     error
	ctx     *sharedContext
	cancel  context.CancelCauseFunc
	waiting int
}

// Do returns what fn returns for key, from this or from another caller's execution. If ctx ends
// first, it returns the cause at once and leaves the execution to the others.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(ctx context.Context) (V, error)) (V, error) {
	for {
		c, joined := g.join(ctx, key, fn)
		if joined {
			return g.wait(ctx, key, c)
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			var zero V
			return zero, context.Cause(ctx)
		}
	}
}

// join takes part in the execution for key, starting it if need be. If the one under way has
// been abandoned, it returns that one and false.
func (g *Group[K, V]) join(ctx context.Context, key K, fn func(ctx context.Context) (V, error)) (*call[V], bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		if c.waiting == 0 {
			return c, false
		}
		c.waiting++
		c.ctx.add(ctx)
		return c, true
	}
	base, cancel := context.WithCancelCause(context.Background())
	c := &call[V]{done: make(chan struct{}), cancel: cancel, waiting: 1, ctx: &sharedContext{Context: base}}
	c.ctx.add(ctx)
	if g.calls == nil {
		g.calls = map[K]*call[V]{}
	}
	g.calls[key] = c
	g.wg.Add(1)
	go g.run(key, c, fn)
	return c, true
}

func (g *Group[K, V]) run(key K, c *call[V], fn func(ctx context.Context) (V, error)) {
	defer g.wg.Done()
	finished := false
	defer func() {
		if !finished { // fn panicked or called runtime.Goexit; the waiters must not hang
			c.err = errors.New("shared execution did not return")
		}
		g.mu.Lock()
		delete(g.calls, key)
		g.mu.Unlock()
		close(c.done)
		c.cancel(nil)
	}()
	c.val, c.err = fn(c.ctx)
	finished = true
}

func (g *Group[K, V]) wait(ctx context.Context, key K, c *call[V]) (V, error) {
	select {
	case <-c.done:
		return c.val, c.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiting--
	if c.waiting == 0 {
		c.cancel(context.Cause(ctx))
	}
	var zero V
	return zero, context.Cause(ctx)
}

// Waiting returns how many callers wait for results at this moment. It is for tests.
func (g *Group[K, V]) Waiting() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.calls {
		n += c.waiting
	}
	return n
}

// Wait returns when no execution is running. No Do may begin meanwhile.
func (g *Group[K, V]) Wait() { g.wg.Wait() }

// sharedContext is the context of an execution on behalf of several callers.
type sharedContext struct {
	context.Context //nolint:containedctx // it is one
	mu              sync.Mutex
	waiters         []context.Context
}

func (c *sharedContext) add(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters = append(c.waiters, ctx)
}

// Deadline reports none: the callers' deadlines differ, and the last one counts by its end.
func (c *sharedContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value returns the first value found among the callers' contexts.
func (c *sharedContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	c.mu.Lock()
	waiters := c.waiters
	c.mu.Unlock()
	for _, w := range waiters {
		if v := w.Value(key); v != nil {
			return v
		}
	}
	return nil
}
