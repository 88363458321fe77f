package observe_test

import (
	"context"
	"encoding/json"
	"expvar"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/observe"
	"github.com/layercache/cache/usage"
)

// TestCounters: events are counted by kind, reason and cause; what came with an error counts neither bytes nor records; durations are summed up, and
// the longest is told.
func TestCounters(t *testing.T) {
	c := &observe.Counters{}
	require.Empty(t, c.Snapshot())
	for _, d := range []time.Duration{time.Second, 3 * time.Second, 2 * time.Second} {
		c.Observe(cache.Event{Kind: cache.EventWait, Reason: cache.PoolPull, Duration: d})
	}
	c.Observe(cache.Event{Kind: cache.EventPull, Reason: cache.ReasonFetched, Size: 10})
	c.Observe(cache.Event{Kind: cache.EventPull, Reason: cache.ReasonFetched, Size: 20})
	c.Observe(cache.Event{Kind: cache.EventPull, Reason: cache.ReasonFetched, Size: 40, Err: errors.New("broke off")})
	c.Observe(cache.Event{Kind: cache.EventPull, Reason: cache.ReasonShared, Size: 20})
	c.Observe(cache.Event{Kind: cache.EventPrune, Records: 7, Size: 100})
	c.Observe(cache.Event{Kind: cache.EventRemove, Reason: cache.ReasonPruned, Cause: cache.RuleIdle, Size: 100})
	c.Observe(cache.Event{Kind: "news of a later version"})
	want := observe.Counts{
		"wait.pull":               {Events: 3, Time: 6 * time.Second, Longest: 3 * time.Second},
		"pull.fetched":            {Events: 3, Errors: 1, Bytes: 30},
		"pull.shared":             {Events: 1, Bytes: 20},
		"prune":                   {Events: 1, Records: 7, Bytes: 100},
		"remove.pruned.idle":      {Events: 1, Bytes: 100},
		"news of a later version": {Events: 1},
	}
	got := c.Snapshot()
	require.Equal(t, want, got)
	require.Equal(t, observe.Count{Events: 4, Errors: 1, Bytes: 50}, got.Sum("pull"))
	require.Zero(t, got.Sum("pul"), "no name goes on after half a word")
	require.Equal(t, observe.Count{Events: 10, Errors: 1, Records: 7, Bytes: 250, Time: 6 * time.Second, Longest: 3 * time.Second}, got.Sum(""))
	require.EqualValues(t, 3, got.Events()["wait.pull"])

	got["pull.shared"] = observe.Count{}
	require.Equal(t, want, c.Take(), "a snapshot is a copy")
	require.Empty(t, c.Take())
}

// TestCountersTogether: whoever takes snapshots meanwhile sees whole events, and no event is lost between one Take and the next.
func TestCountersTogether(t *testing.T) {
	const goroutines, events = 8, 500
	c := &observe.Counters{}
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range goroutines {
		wg.Go(func() {
			for range events {
				c.Observe(cache.Event{Kind: cache.EventPrune, Records: 2, Size: 3})
			}
		})
	}
	go func() {
		wg.Wait()
		close(done)
	}()
	var sum observe.Count
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		n := c.Take()["prune"]
		require.Equal(t, [2]int64{2 * n.Events, 3 * n.Events}, [2]int64{n.Records, n.Bytes})
		sum.Events += n.Events
	}
	require.EqualValues(t, goroutines*events, sum.Events)
}

type inspected struct{}

func (inspected) Stats() cache.Stats { return cache.Stats{Records: 3, Refs: 2, Mounts: 1} }

func (inspected) Totals() []cache.Total {
	return []cache.Total{{State: "ready", Kind: "layer", RecordType: usage.TypeRegular, Records: 3, InUse: 2, Unmeasured: 1, Bytes: 42}}
}

// TestVariable: counters and the state of a manager are variables for expvar, in JSON that does not change by itself.
func TestVariable(t *testing.T) {
	c := &observe.Counters{}
	var v, own expvar.Var = observe.Var(inspected{}, c), c
	c.Observe(cache.Event{Kind: cache.EventGet, Reason: cache.ReasonHit, Cause: cache.CauseID, Duration: 5})
	require.JSONEq(t, `{"get.hit.id":{"events":1,"ns":5,"longestNs":5}}`, own.String())
	require.JSONEq(t, `{"counts":{"get.hit.id":{"events":1,"ns":5,"longestNs":5}},"stats":{"records":3,"refs":2,"mounts":1},
		"totals":[{"state":"ready","kind":"layer","recordType":"regular","records":3,"inUse":2,"unmeasured":1,"bytes":42}]}`, v.String())
	var back observe.State
	require.NoError(t, json.Unmarshal([]byte(v.String()), &back))
	require.Equal(t, observe.StateOf(inspected{}, c), back)
	require.Nil(t, observe.StateOf(inspected{}, nil).Counts)
}

// tracer notes what it is told, and puts its name into the context.
type tracer struct {
	name string
	log  *[]string
}

type nameKey struct{}

func (t tracer) Observe(ev cache.Event) { *t.log = append(*t.log, t.name+" "+string(ev.Kind)) }

func (t tracer) Begin(ctx context.Context, ev cache.Event) (context.Context, func(cache.Event)) {
	before, _ := ctx.Value(nameKey{}).(string)
	*t.log = append(*t.log, t.name+" begin "+before)
	if ev.Kind != cache.EventPull {
		return ctx, nil
	}
	return context.WithValue(ctx, nameKey{}, before+t.name), func(ev cache.Event) { *t.log = append(*t.log, t.name+" end "+string(ev.Kind)) }
}

// TestJoin: every observer is told of everything, tracers around each other.
func TestJoin(t *testing.T) {
	require.Nil(t, observe.Join())
	require.Nil(t, observe.Join(nil, nil))
	one := &observe.Counters{}
	require.Same(t, one, observe.Join(nil, one))
	_, traces := observe.Join(one, &observe.Counters{}).(cache.Tracer)
	require.False(t, traces, "nobody wants to be told of beginnings")

	var log []string
	other := &observe.Counters{}
	all, ok := observe.Join(one, tracer{"a", &log}, nil, tracer{"b", &log}, other).(cache.Tracer)
	require.True(t, ok)
	ctx, end := all.Begin(t.Context(), cache.Event{Kind: cache.EventPull})
	require.Equal(t, "ab", ctx.Value(nameKey{}))
	end(cache.Event{Kind: cache.EventPull})
	all.Observe(cache.Event{Kind: cache.EventPull})
	require.Equal(t, []string{"a begin ", "b begin a", "b end pull", "a end pull", "a pull", "b pull"}, log)
	require.Equal(t, observe.Counts{"pull": {Events: 1}}, one.Snapshot())
	require.Equal(t, one.Snapshot(), other.Snapshot())
	_, end = all.Begin(t.Context(), cache.Event{Kind: cache.EventWait})
	require.Nil(t, end)
}
