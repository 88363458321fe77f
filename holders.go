package cache

import (
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Holder is a live ref and where it was taken.
type Holder struct {
	// ID is the record's ID under which the ref was taken.
	ID string
	// Mutable tells which kind of ref it is.
	Mutable bool
	// Since is when it was taken.
	Since time.Time
	// Stack lists the callers, innermost first, one "function file:line" each.
	Stack []string
}

// holderDepth is how many callers are remembered: enough to get out of the cache and a few
// layers of an engine.
const holderDepth = 16

// holderTable knows every live ref while ManagerOpt.TrackHolders is set.
type holderTable struct {
	mu   sync.Mutex
	live map[any]holderEntry
}

type holderEntry struct {
	id      string
	pair    string // the mutable half, whose name the ref holds, too
	mutable bool
	since   time.Time
	pcs     [holderDepth]uintptr
	n       int
}

func newHolderTable() *holderTable { return &holderTable{live: map[any]holderEntry{}} }

// took notes that ref, a pointer to a handle, is live; gone that it is not. Both do nothing
// unless holders are tracked.
func (m *manager) took(ref any, id string, mutable bool) {
	if m.holders == nil {
		return
	}
	e := holderEntry{id: id, mutable: mutable, since: m.opt.Now()}
	e.pair, _ = m.g.EqualMutable(id)
	e.n = runtime.Callers(3, e.pcs[:])
	m.holders.mu.Lock()
	defer m.holders.mu.Unlock()
	m.holders.live[ref] = e
}

func (m *manager) gone(ref any) {
	if m.holders == nil {
		return
	}
	m.holders.mu.Lock()
	defer m.holders.mu.Unlock()
	delete(m.holders.live, ref)
}

func (t *holderTable) list(id string) []Holder {
	t.mu.Lock()
	entries := make([]holderEntry, 0, len(t.live))
	for _, e := range t.live {
		if id == "" || e.id == id || e.pair == id {
			entries = append(entries, e)
		}
	}
	t.mu.Unlock()
	sort.Slice(entries, func(i, j int) bool { return entries[i].since.Before(entries[j].since) })
	out := make([]Holder, len(entries))
	for i, e := range entries {
		out[i] = Holder{ID: e.id, Mutable: e.mutable, Since: e.since, Stack: e.stack()}
	}
	return out
}

func (e *holderEntry) stack() []string {
	var out []string
	frames := runtime.CallersFrames(e.pcs[:e.n])
	for {
		f, more := frames.Next()
		if f.Function != "" {
			name := f.Function[strings.LastIndexByte(f.Function, '/')+1:]
			out = append(out, name+" "+f.File+":"+strconv.Itoa(f.Line))
		}
		if !more {
			return out
		}
	}
}
