package cache

import (
	"fmt"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/containerd/log"
)

// Holder is a ref that was not released, and where it was taken.
type Holder struct {
	// ID is the record's ID under which the ref was taken.
	ID string
	// Mutable tells which kind of ref it is.
	Mutable bool
	// Since is when it was taken, and Age how long ago that is.
	Since time.Time
	Age   time.Duration
	// Place is who took it, as "file:line": the innermost caller outside of this package.
	Place string
	// Stack lists the callers, innermost first, one "function file:line" each.
	Stack []string
	// Leaked says that the ref was garbage-collected, so that nobody can release it any more.
	Leaked bool
}

// String is a line for people.
func (h Holder) String() string {
	kind, state := "immutable", ""
	if h.Mutable {
		kind = "mutable"
	}
	if h.Leaked {
		state = ", leaked"
	}
	return fmt.Sprintf("%s ref to %s held by %s for %s%s", kind, h.ID, h.Place, h.Age, state)
}

// holderDepth is how many callers are remembered: enough to get out of the cache and a few
// layers of an engine.
const holderDepth = 16

// holderTable knows every ref that was not released while ManagerOpt.TrackHolders is set. It must not keep a ref from being
// garbage-collected, so refs are told apart by weak pointers, of which no two are equal that were made of different refs.
type holderTable struct {
	mu   sync.Mutex
	live map[any]*holderEntry
}

type holderEntry struct {
	id      string
	pair    string // the mutable half, whose name the ref holds, too
	mutable bool
	leaked  bool
	since   time.Time
	pcs     [holderDepth]uintptr
	n       int
	watch   runtime.Cleanup
}

// took notes that ref, a pointer to a handle, is live, and watches over it; gone notes that it is not. Both do nothing unless holders are
// tracked.
func took[T any](m *manager, ref *T, id string, mutable bool) {
	if m.holders == nil {
		return
	}
	e := &holderEntry{id: id, mutable: mutable, since: m.opt.Now()}
	e.pair, _ = m.g.EqualMutable(id)
	e.n = runtime.Callers(3, e.pcs[:])
	key := weak.Make(ref)
	m.holders.mu.Lock()
	defer m.holders.mu.Unlock()
	m.holders.live[key] = e
	// The cleanup keeps the manager, as the ref does, and not the ref.
	e.watch = runtime.AddCleanup(ref, m.leaked, e)
}

func gone[T any](m *manager, ref *T) {
	if m.holders == nil {
		return
	}
	key := weak.Make(ref)
	m.holders.mu.Lock()
	defer m.holders.mu.Unlock()
	if e := m.holders.live[key]; e != nil {
		e.watch.Stop()
		delete(m.holders.live, key)
	}
	runtime.KeepAlive(ref) // else it might be found to have leaked while it is released
}

// leaked reports a ref that nobody can release any more. It does not release it: that the record is held for ever shows what is
// wrong, and releasing at a moment that depends on the garbage collector would make a bug that comes and goes of it. It is called from the
// runtime's own goroutine, which the observer must not hold up. After Close nobody is told.
func (m *manager) leaked(e *holderEntry) {
	if m.life.again() != nil {
		return
	}
	defer m.life.end()
	m.holders.mu.Lock()
	e.leaked = true
	h := e.holder(m.opt.Now())
	m.holders.mu.Unlock()
	m.life.goOn(func() {
		log.L.WithField("record", h.ID).WithField("age", h.Age).WithField("stack", strings.Join(h.Stack, "; ")).
			Warnf("layer cache: a ref taken at %s was garbage-collected without being released", h.Place)
		ev := Event{Kind: EventLeak, ID: h.ID, Reason: "immutable", Duration: h.Age, Holder: &h}
		if h.Mutable {
			ev.Reason = "mutable"
		}
		m.observe(ev, time.Time{})
	})
}

func (t *holderTable) list(id string, now time.Time) []Holder {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Holder, 0, len(t.live))
	for _, e := range t.live {
		if id == "" || e.id == id || e.pair == id {
			out = append(out, e.holder(now))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Since.Before(out[j].Since) })
	return out
}

// holder describes an entry. The table is locked.
func (e *holderEntry) holder(now time.Time) Holder {
	h := Holder{ID: e.id, Mutable: e.mutable, Since: e.since, Age: now.Sub(e.since), Leaked: e.leaked}
	frames := runtime.CallersFrames(e.pcs[:e.n])
	for more := true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); f.Function == "" {
			continue
		}
		place := f.File + ":" + strconv.Itoa(f.Line)
		if h.Place == "" && !strings.HasPrefix(f.Function, ownFunctions) {
			h.Place = place
		}
		h.Stack = append(h.Stack, f.Function[strings.LastIndexByte(f.Function, '/')+1:]+" "+place)
	}
	return h
}

// ownFunctions is what the names of this package's functions begin with.
const ownFunctions = "github.com/layercache/cache."
