package observe

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/layercache/cache"
)

// Counters is an observer that counts. Its zero value is ready to use, and one may serve several managers. Its methods may be called from any
// goroutine; it never calls the cache.
type Counters struct {
	mu     sync.Mutex
	counts map[key]Count
}

type key struct {
	kind          cache.EventKind
	reason, cause string
}

// Count is what the events of one name sum up to.
type Count struct {
	// Events is how many there were, and Errors how many of them came with an error.
	Events int64 `json:"events"`
	Errors int64 `json:"errors,omitempty"`
	// Records and Bytes are the sums of the events' Records and Size, without those that came with an error.
	Records int64 `json:"records,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"`
	// Time is the sum of the events' durations, and Longest the longest; in nanoseconds where it is JSON.
	Time    time.Duration `json:"ns,omitempty"`
	Longest time.Duration `json:"longestNs,omitempty"`
}

func (c *Count) add(other Count) {
	c.Events += other.Events
	c.Errors += other.Errors
	c.Records += other.Records
	c.Bytes += other.Bytes
	c.Time += other.Time
	c.Longest = max(c.Longest, other.Longest)
}

// Counts are counts by name. JSON writes them in the order of the names.
type Counts map[string]Count

// Name is what an event counts as: its kind, followed by its reason and its cause, if it has them, with points between, such as "new",
// "get.hit.id", "remove.pruned.max-used-space", "wait.unpack". Which there are is written at cache.EventKind.
func Name(ev cache.Event) string {
	name := string(ev.Kind)
	for _, part := range []string{ev.Reason, ev.Cause} {
		if part != "" {
			name += "." + part
		}
	}
	return name
}

// Observe counts an event.
func (c *Counters) Observe(ev cache.Event) {
	one := Count{Events: 1, Time: ev.Duration, Longest: ev.Duration}
	if ev.Err != nil {
		one.Errors = 1
	} else {
		one.Records, one.Bytes = int64(ev.Records), ev.Size
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[key]Count{}
	}
	k := key{ev.Kind, ev.Reason, ev.Cause}
	sum := c.counts[k]
	sum.add(one)
	c.counts[k] = sum
}

// Snapshot returns a copy of the counts, all of one moment.
func (c *Counters) Snapshot() Counts {
	c.mu.Lock()
	counts := maps.Clone(c.counts)
	c.mu.Unlock()
	out := make(Counts, len(counts))
	for k, n := range counts {
		out[Name(cache.Event{Kind: k.kind, Reason: k.reason, Cause: k.cause})] = n
	}
	return out
}

// Take returns the counts and begins anew, so that no event is missing and none is counted twice between one Take and the next.
func (c *Counters) Take() Counts {
	c.mu.Lock()
	taken := Counters{counts: c.counts}
	c.counts = nil
	c.mu.Unlock()
	return taken.Snapshot()
}

// String is the counts as JSON, which makes Counters an expvar.Var.
func (c *Counters) String() string { return asJSON(c.Snapshot()) }

// Sum adds up the counts of a name and of all that go on after it: Sum("get.hit") those of "get.hit.id" and "get.hit.blob". An empty name
// stands for all.
func (c Counts) Sum(name string) (sum Count) {
	for n, count := range c {
		if name == "" || n == name || strings.HasPrefix(n, name+".") {
			sum.add(count)
		}
	}
	return sum
}

// Events returns how many events there were, by name.
func (c Counts) Events() map[string]int64 {
	out := make(map[string]int64, len(c))
	for name, n := range c {
		out[name] = n.Events
	}
	return out
}

func asJSON(v any) string {
	out, err := json.Marshal(v)
	if err != nil { // of numbers and strings
		return "null"
	}
	return string(out)
}
