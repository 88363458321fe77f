package cache

import "time"

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	// EventNew: a record was made.
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
