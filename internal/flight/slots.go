// Package flight keeps concurrent work on one key apart or together: Slots let one operation at a
// time work on a key, Group lets all who want the same result share one execution.
// Both are values of their owner; nothing is shared between processes' parts that do not share the value.
package flight

import (
	"context"
	"sync"
)

// Slots admits one holder per key. The zero value is ready to use. Keys nobody holds or waits
// for cost nothing.
type Slots[K comparable] struct {
	mu    sync.Mutex
	slots map[K]*slot
}

type slot struct {
	free    chan struct{} // holds one token while nobody is inside
	holders int           // inside and waiting
}

// Enter waits until the key is free, takes it, and returns the function that gives it back, to
// be called once. It fails only with the cause of ctx's end; a key that is free is taken even if
// ctx has ended, so that cleaning up does not depend on the caller's context.
func (s *Slots[K]) Enter(ctx context.Context, key K) (leave func(), err error) {
	s.mu.Lock()
	sl := s.slots[key]
	if sl == nil {
		if s.slots == nil {
			s.slots = map[K]*slot{}
		}
		sl = &slot{free: make(chan struct{}, 1)}
		sl.free <- struct{}{}
		s.slots[key] = sl
	}
	sl.holders++
	s.mu.Unlock()

	leave = func() {
		sl.free <- struct{}{}
		s.forget(key, sl)
	}
	select {
	case <-sl.free:
		return leave, nil
	default:
	}
	select {
	case <-sl.free:
		return leave, nil
	case <-ctx.Done():
		s.forget(key, sl)
		return nil, context.Cause(ctx)
	}
}

// TryEnter is Enter for who does not want to wait: it takes a key that is free, and else does nothing.
func (s *Slots[K]) TryEnter(key K) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[key] != nil {
		return nil, false
	}
	if s.slots == nil {
		s.slots = map[K]*slot{}
	}
	sl := &slot{free: make(chan struct{}, 1), holders: 1}
	s.slots[key] = sl
	return func() {
		sl.free <- struct{}{}
		s.forget(key, sl)
	}, true
}

func (s *Slots[K]) forget(key K, sl *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl.holders--
	if sl.holders == 0 {
		delete(s.slots, key)
	}
}

// Len returns the number of keys that are held or waited for.
func (s *Slots[K]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.slots)
}
