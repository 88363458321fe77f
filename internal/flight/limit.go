package flight

import (
	"context"
	"sync"
)

// Limit admits up to Max holders per key at the same time. Set Max before use; keys nobody holds or waits
// for cost nothing.
type Limit[K comparable] struct {
	// Max is the number of holders per key, at least 1.
	Max int

	mu   sync.Mutex
	keys map[K]*places
}

type places struct {
	taken chan struct{} // holds one token per holder inside
	users int           // inside and waiting
}

// Enter waits for a place at the key, takes it, and returns the function that gives it back, to be called
// once. It fails only with the cause of ctx's end.
func (l *Limit[K]) Enter(ctx context.Context, key K) (leave func(), err error) {
	l.mu.Lock()
	p := l.keys[key]
	if p == nil {
		if l.keys == nil {
			l.keys = map[K]*places{}
		}
		p = &places{taken: make(chan struct{}, max(l.Max, 1))}
		l.keys[key] = p
	}
	p.users++
	l.mu.Unlock()

	select {
	case p.taken <- struct{}{}:
		return func() {
			<-p.taken
			l.forget(key, p)
		}, nil
	case <-ctx.Done():
		l.forget(key, p)
		return nil, context.Cause(ctx)
	}
}

func (l *Limit[K]) forget(key K, p *places) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.users--
	if p.users == 0 {
		delete(l.keys, key)
	}
}

// Len returns the number of keys that are held or waited for.
func (l *Limit[K]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.keys)
}
