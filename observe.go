package cache

import (
	"context"
	"sync"
	"time"

	"github.com/layercache/cache/internal/graph"
)

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	// EventNew: a record was made. Reason is "blob", "merge" or "diff" if it has no tree yet.
	EventNew EventKind = "new"
	// EventGet: a ref to an existing record was handed out. Reason is "hit", or why not.
	EventGet EventKind = "get"
	// EventRelease: the last ref of a record was released.
	EventRelease EventKind = "release"
	// EventCommit: a mutable record was sealed by its user.
	EventCommit EventKind = "commit"
	// EventReopen: a sealed record was taken up for writing again.
	EventReopen EventKind = "reopen"
	// EventFinalize: a sealed record's snapshot was committed.
	EventFinalize EventKind = "finalize"
	// EventMount: the mounts of a record were made.
	EventMount EventKind = "mount"
	// EventPull: a blob was fetched, or waited for while another record's fetch of it was under way.
	EventPull EventKind = "pull"
	// EventExtract: a layer was unpacked, or the tree of a merge or a diff was made; then Reason is "merge" or "diff".
	EventExtract EventKind = "extract"
	// EventPack: the blob of a layer was made, of the compression that Reason names.
	EventPack EventKind = "pack"
	// EventConvert: a blob was made of another compression, which Reason names.
	EventConvert EventKind = "convert"
	// EventExport: the blobs of a record were handed out; Size is that of all of them.
	EventExport EventKind = "export"
	// EventRemove: a record was removed. Reason says which rule asked for it.
	EventRemove EventKind = "remove"
	// EventRecover: a record left by an earlier process was repaired or dropped. Reason says how.
	EventRecover EventKind = "recover"
)

// Event is something that happened in the cache.
type Event struct {
	Kind EventKind
	// ID is the record's ID.
	ID string
	// Reason tells the cause in a word or two, where there is a choice.
	Reason string
	// Size is in bytes, 0 where unknown or without meaning.
	Size int64
	// Duration is how long the work took.
	Duration time.Duration
	// Err is the error the work ended with.
	Err error
}

// Observer is told what happens in a cache. Observe is called from the goroutine that did the
// work, after it, with no lock of the cache held; it may call the cache. What it must not call are
// Close, which waits for the operation that the event is part of, and Prune while that is one.
type Observer interface {
	Observe(Event)
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
	leaveSlot, err := m.slots.Enter(ctx, rec)
	if err != nil || m.opt.Observer == nil {
		return leaveSlot, err
	}
	return func() {
		leaveSlot()
		m.reportEvents(rec)
	}, nil
}
