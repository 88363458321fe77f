package cache

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/flight"
	"github.com/layercache/cache/internal/graph"
)

// Observer is told what happens in a cache. It has one method on purpose: what is new comes as a new kind of event or a new field of
// Event, so that an observer that was written before still compiles and still works.
//
// Observe is called from the goroutine that did the work, after it, with no lock of the cache held; those of several goroutines
// call it at the same time. The events of one goroutine come in the order in which the work ended, but those of what happened while a record was locked
// for others come after that; between goroutines there is no order. Every operation waits until Observe returns, so it must be
// quick: it should not do I/O. A panic of it is not caught. An event belongs to the observer, who must not change what its Holder refers to.
//
// Observe may call the cache. What it must not wait for is what the event is part of: Close, always; Prune, while an event comes from one; and
// for the tree or the blob of a record where an event is about making one (EventPull, EventExtract, EventPack, EventConvert, EventCollect,
// EventWait).
type Observer interface {
	Observe(Event)
}

// Tracer is an Observer that is told of work that may take long when it begins, too; whoever makes spans needs that. If ManagerOpt.Observer has
// this method, it is called.
type Tracer interface {
	Observer
	// Begin is called before the work that an event of these kinds will be about: EventPull, EventExtract, EventPack, EventConvert, EventExport,
	// EventPrune, EventCollect, EventWait. ev has what is known by then: the Kind, and the ID, Reason, Source, Digest and Size. The work is
	// done in the context that Begin returns, which must be ctx or made from it. Work that several callers share, such as a
	// transfer, sees the values of all their contexts, first come first. end, unless it is nil, is called once, when the work has ended, with the event that
	// Observe is told of as well, then or later; not from the same goroutine in all cases.
	//
	// Unlike Observe, neither Begin nor end may call the cache: they may be called while a record is locked for others.
	Begin(ctx context.Context, ev Event) (_ context.Context, end func(Event))
}

// observe reports an event whose work began at start. It costs a comparison if nobody observes.
func (m *manager) observe(ev Event, start time.Time) {
	if m.opt.Observer == nil {
		return
	}
	if !start.IsZero() {
		ev.Duration = m.opt.Now().Sub(start)
	}
	m.opt.Observer.Observe(ev)
}

// eventStart returns the time for observe's start, if anybody will want it.
func (m *manager) eventStart() time.Time {
	if m.opt.Observer == nil {
		return time.Time{}
	}
	return m.opt.Now()
}

// work is something that takes long and is going on. The zero value stands for what nobody observes.
type work struct {
	m     *manager
	start time.Time
	end   func(Event)
}

// begin tells that work begins. One of the work's methods must follow, which end it.
func (m *manager) begin(ctx context.Context, ev Event) (context.Context, work) {
	if m.opt.Observer == nil {
		return ctx, work{}
	}
	w := work{m: m, start: m.opt.Now()}
	if m.tracer != nil {
		ctx, w.end = m.tracer.Begin(ctx, ev)
	}
	return ctx, w
}

// ended completes an event and ends the span. That the observer is told of the event is the caller's.
func (w *work) ended(ev *Event) {
	ev.Duration = w.m.opt.Now().Sub(w.start)
	if w.end != nil {
		w.end(*ev)
	}
}

// done tells that work ended.
func (w *work) done(ev Event) {
	if w.m == nil {
		return
	}
	w.ended(&ev)
	w.m.opt.Observer.Observe(ev)
}

// doneLater is done for a caller that is in the record's slot: the observer is told when that is left.
func (w *work) doneLater(rec *graph.Record, ev Event) {
	if w.m == nil {
		return
	}
	w.ended(&ev)
	w.m.observeLater(rec, ev, time.Time{})
}

// slotEvents holds what happened in records' slots until these are left: an observer may call the
// cache, about the same record, too.
type slotEvents struct {
	mu    sync.Mutex
	byRec map[*graph.Record][]Event
}

// observeLater reports an event when the record's slot, which the caller is in, is left.
func (m *manager) observeLater(rec *graph.Record, ev Event, start time.Time) {
	if m.opt.Observer == nil {
		return
	}
	if !start.IsZero() {
		ev.Duration = m.opt.Now().Sub(start)
	}
	m.events.mu.Lock()
	defer m.events.mu.Unlock()
	if m.events.byRec == nil {
		m.events.byRec = map[*graph.Record][]Event{}
	}
	m.events.byRec[rec] = append(m.events.byRec[rec], ev)
}

// reportEventsOf is reportEvents for several records.
func (m *manager) reportEventsOf(recs []*graph.Record) {
	for _, rec := range recs {
		m.reportEvents(rec)
	}
}

// reportEvents tells the observer what was kept for a record. No slot of it may be held.
func (m *manager) reportEvents(rec *graph.Record) {
	if m.opt.Observer == nil {
		return
	}
	m.events.mu.Lock()
	events := m.events.byRec[rec]
	delete(m.events.byRec, rec)
	m.events.mu.Unlock()
	for _, ev := range events {
		m.opt.Observer.Observe(ev)
	}
}

// enter takes a record's slot. The function it returns leaves the slot and then reports what
// happened in it.
func (m *manager) enter(ctx context.Context, rec *graph.Record) (leave func(), err error) {
	if m.opt.Observer == nil {
		return m.slots.Enter(ctx, rec)
	}
	leaveSlot, free := m.slots.TryEnter(rec)
	if !free {
		st := m.g.Status(rec)
		ev := Event{Kind: EventWait, ID: nameOf(st), Reason: PoolRecord}
		ctx, w := m.begin(ctx, ev)
		leaveSlot, err = m.slots.Enter(ctx, rec)
		ev.Err = err
		if err != nil {
			w.done(ev)
			return nil, err
		}
		w.doneLater(rec, ev)
	}
	return func() {
		leaveSlot()
		m.reportEvents(rec)
	}, nil
}

// enterSlot takes a slot that is not a record's. If that takes waiting, ev, which needs Reason, is reported when the slot is left.
func enterSlot[K comparable](ctx context.Context, m *manager, slots *flight.Slots[K], key K, ev Event) (leave func(), err error) {
	if m.opt.Observer == nil {
		return slots.Enter(ctx, key)
	}
	if leave, free := slots.TryEnter(key); free {
		return leave, nil
	}
	return m.waitFor(ctx, ev, func(ctx context.Context) (func(), error) { return slots.Enter(ctx, key) })
}

// enterPool is enterSlot for a place among several.
func enterPool[K comparable](ctx context.Context, m *manager, pool *flight.Limit[K], key K, rank flight.Rank, ev Event) (leave func(), err error) {
	if m.opt.Observer == nil {
		return pool.Enter(ctx, key, rank)
	}
	if leave, free := pool.TryEnter(key); free {
		return leave, nil
	}
	return m.waitFor(ctx, ev, func(ctx context.Context) (func(), error) { return pool.Enter(ctx, key, rank) })
}

// waitFor enters what others are in.
func (m *manager) waitFor(ctx context.Context, ev Event, enter func(context.Context) (func(), error)) (leave func(), err error) {
	ev.Kind = EventWait
	ctx, w := m.begin(ctx, ev)
	leaveSlot, err := enter(ctx)
	ev.Err = err
	if err != nil {
		w.done(ev)
		return nil, err
	}
	w.ended(&ev)
	return func() {
		leaveSlot()
		m.opt.Observer.Observe(ev)
	}, nil
}

// missCause says in a word why there was no ref.
func missCause(err error) string {
	missing := NeedsRemoteProviderError{}
	switch {
	case errors.Is(err, ErrLocked):
		return CauseLocked
	case IsNotFound(err):
		return CauseNotFound
	case errors.As(err, &missing):
		return CauseNoProvider
	case errdefs.IsInvalidArgument(err), errors.Is(err, errNonAddressable):
		return CauseInvalid
	}
	return CauseFailed
}
