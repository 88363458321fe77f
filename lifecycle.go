package cache

import (
	"sync"
	"sync/atomic"
)

// lifecycle counts the operations that may do I/O, so that Close can wait for them (spec LOCK-3).
type lifecycle struct {
	mu      sync.Mutex
	idle    sync.Cond
	running int
	closed  atomic.Bool
	// closing is closed when close begins, for operations that wait for their caller.
	closing chan struct{}
}

func (l *lifecycle) init() {
	l.idle.L = &l.mu
	l.closing = make(chan struct{})
}

// begin admits an operation, which must call end. It fails once close was called.
func (l *lifecycle) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return ErrClosed
	}
	l.running++
	return nil
}

// again admits a part of an operation that begin admitted, or the end of a ref while others are
// under way, which Close waits for as well.
func (l *lifecycle) again() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() && l.running == 0 {
		return ErrClosed
	}
	l.running++
	return nil
}

func (l *lifecycle) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	if l.running == 0 {
		l.idle.Broadcast()
	}
}

// goOn runs fn in a goroutine that close waits for. The caller must be inside begin and end.
func (l *lifecycle) goOn(fn func()) {
	l.mu.Lock()
	l.running++
	l.mu.Unlock()
	go func() {
		defer l.end()
		fn()
	}()
}

func (l *lifecycle) isClosed() bool { return l.closed.Load() }

// close refuses further operations and waits for those under way. Only its first call reports true,
// and every call returns only when nothing is running.
func (l *lifecycle) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.closed.CompareAndSwap(false, true)
	if first {
		close(l.closing)
	}
	for l.running > 0 {
		l.idle.Wait()
	}
	return first
}
