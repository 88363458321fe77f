package metadata

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// life is the fate that the items of one record share. It ends with the record; a later record
// of the same ID has another one.
type life struct {
	id      string
	existed atomic.Bool // the record was seen in the database
	removed atomic.Bool // it has been removed since
}

// lifeTable finds the life of an ID while an item holds it, so that it grows with the items
// in use and not with the records that come and go.
type lifeTable struct {
	mu       sync.Mutex
	m        map[string]weak.Pointer[life]
	removals atomic.Uint64 // counts up before a removal is marked
}

// get returns the life of an ID, a new one if no item holds it.
func (t *lifeTable) get(id string) *life {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.m[id].Value(); l != nil {
		return l
	}
	l := &life{id: id}
	if t.m == nil {
		t.m = make(map[string]weak.Pointer[life])
	}
	wp := weak.Make(l)
	t.m[id] = wp
	runtime.AddCleanup(l, func(id string) { t.forget(id, wp) }, id)
	return l
}

// forget drops the entry of a life that no item holds any more.
func (t *lifeTable) forget(id string, wp weak.Pointer[life]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[id] == wp {
		delete(t.m, id)
	}
}

// created notes that the record of an ID exists from now on.
func (t *lifeTable) created(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.m[id].Value(); l != nil {
		l.existed.Store(true)
	}
}

// ended notes that the record of an ID has been removed.
func (t *lifeTable) ended(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removals.Add(1)
	if l := t.m[id].Value(); l != nil {
		l.removed.Store(true)
	}
	delete(t.m, id)
}

// size returns how many IDs have a life.
func (t *lifeTable) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}
