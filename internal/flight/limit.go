package flight

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Limit admits up to Max holders per key at the same time. Set Max before use; keys nobody holds cost nothing.
type Limit[K comparable] struct {
	// Max is the number of holders per key, at least 1.
	Max int

	mu   sync.Mutex
	keys map[K]*places
}

// Rank is the place of one who waits: the lower Call goes first, then the lower Step, then who came first.
type Rank struct {
	// Call is what keeps anybody from waiting for ever: later ones are to have higher numbers, or all the same.
	Call uint64
	Step int
}

func (r Rank) compare(other Rank) int {
	return cmp.Or(cmp.Compare(r.Call, other.Call), cmp.Compare(r.Step, other.Step))
}

// places are those of one key. Nobody waits unless all are taken.
type places struct {
	inside  int
	waiting []*waiter // in the order they are let in
}

type waiter struct {
	rank Rank
	in   chan struct{} // closed when the place is theirs
}

// Enter waits for a place at the key, takes it, and returns the function that gives it back, to be called
// once. It fails only with the cause of ctx's end; a place that is free is taken even if ctx has ended.
func (l *Limit[K]) Enter(ctx context.Context, key K, rank Rank) (leave func(), err error) {
	leave = func() { l.leave(key) }
	w := l.enter(key, rank)
	if w == nil {
		return leave, nil
	}
	select {
	case <-w.in:
		return leave, nil
	case <-ctx.Done():
		if !l.giveUp(key, w) {
			leave() // the place came just then
		}
		return nil, context.Cause(ctx)
	}
}

// TryEnter is Enter for who does not want to wait: it takes a place that is free, and else does nothing.
func (l *Limit[K]) TryEnter(key K) (leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.tookPlace(key) {
		return nil, false
	}
	return func() { l.leave(key) }, true
}

// tookPlace takes a place and tells whether there was one. l.mu is held.
func (l *Limit[K]) tookPlace(key K) bool {
	p := l.keys[key]
	if p == nil {
		if l.keys == nil {
			l.keys = map[K]*places{}
		}
		p = &places{}
		l.keys[key] = p
	}
	if p.inside >= max(l.Max, 1) {
		return false
	}
	p.inside++
	return true
}

// enter takes a place, or returns who waits for one.
func (l *Limit[K]) enter(key K, rank Rank) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tookPlace(key) {
		return nil
	}
	p := l.keys[key]
	w := &waiter{rank: rank, in: make(chan struct{})}
	after, _ := slices.BinarySearchFunc(p.waiting, rank, func(other *waiter, rank Rank) int {
		return cmp.Or(other.rank.compare(rank), -1) // behind those of the same rank
	})
	p.waiting = slices.Insert(p.waiting, after, w)
	return w
}

// leave hands the place to the next one.
func (l *Limit[K]) leave(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.keys[key]
	if len(p.waiting) > 0 {
		close(p.waiting[0].in)
		p.waiting = slices.Delete(p.waiting, 0, 1)
		return
	}
	if p.inside--; p.inside == 0 {
		delete(l.keys, key)
	}
}

// giveUp takes one who waits out of the queue, and tells whether he was still in it.
func (l *Limit[K]) giveUp(key K, w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.keys[key]
	if p == nil {
		return false
	}
	i := slices.Index(p.waiting, w)
	if i < 0 {
		return false
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	return true
}

// Len returns the number of keys that are held.
func (l *Limit[K]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.keys)
}

// Waiting returns how many wait for a place at the key.
func (l *Limit[K]) Waiting(key K) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.keys[key]; p != nil {
		return len(p.waiting)
	}
	return 0
}
