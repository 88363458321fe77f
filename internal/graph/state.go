package graph

import "strconv"

// State is where a record is in its life.
type State uint8

// The states of a record.
const (
	// Active: the snapshot is writable and nobody committed it.
	Active State = iota + 1
	// Sealed: committed by its user while the snapshot is still writable underneath.
	Sealed
	// Lazy: immutable, and known by a recipe (a blob, a merge, a diff); the snapshot may be absent.
	Lazy
	// Ready: immutable, and the committed snapshot is present.
	Ready
	// Condemned: chosen for deletion and invisible.
	Condemned
	// Gone: deleted.
	Gone
)

var stateNames = [...]string{Active: "active", Sealed: "sealed", Lazy: "lazy", Ready: "ready", Condemned: "condemned", Gone: "gone"}

// String names the state.
func (s State) String() string {
	if s >= Active && s <= Gone {
		return stateNames[s]
	}
	return "state(" + strconv.Itoa(int(s)) + ")"
}

// Event is what can happen to a record.
type Event uint8

// The events in a record's life.
const (
	// Seal: its user committed the record.
	Seal Event = iota + 1
	// Reopen: a sealed record is taken up for writing again.
	Reopen
	// Finalize: the snapshot of a sealed record was committed.
	Finalize
	// Materialize: the snapshot of a lazy record is present now.
	Materialize
	// Lose: the snapshot of a ready record vanished and there is a recipe for it.
	Lose
	// Condemn: the record was chosen for deletion.
	Condemn
	// Restore: the deletion could not begin; the record is back as it was.
	Restore
	// Drop: the record is deleted.
	Drop
)

var eventNames = [...]string{
	Seal: "seal", Reopen: "reopen", Finalize: "finalize", Materialize: "materialize",
	Lose: "lose", Condemn: "condemn", Restore: "restore", Drop: "drop",
}

// String names the event.
func (e Event) String() string {
	if e >= Seal && e <= Drop {
		return eventNames[e]
	}
	return "event(" + strconv.Itoa(int(e)) + ")"
}

// TransitionError reports an event that is illegal in a record's state. It is a bug in the
// caller, never a condition of the outside world.
type TransitionError struct {
	State State
	Event Event
}

// Error names state and event.
func (e *TransitionError) Error() string {
	return "a record that is " + e.State.String() + " cannot " + e.Event.String()
}

// next is the one place that knows which event leads where. before is the state a condemned
// record had; it is what Restore leads back to.
func next(s, before State, e Event) (State, error) {
	switch {
	case s == Active && e == Seal:
		return Sealed, nil
	case s == Sealed && e == Reopen:
		return Active, nil
	case s == Sealed && e == Finalize, s == Lazy && e == Materialize:
		return Ready, nil
	case s == Ready && e == Lose:
		return Lazy, nil
	case s >= Active && s <= Ready && e == Condemn:
		return Condemned, nil
	case s == Condemned && e == Restore && before >= Active && before <= Ready:
		return before, nil
	case s == Condemned && e == Drop:
		return Gone, nil
	}
	return s, &TransitionError{State: s, Event: e}
}

// apply moves r by e and counts the change. A condemned record keeps in before what it was.
func (r *Record) apply(e Event) error {
	to, err := next(r.state, r.before, e)
	if err != nil {
		return err
	}
	if to == Condemned {
		r.before = r.state
	}
	r.state = to
	r.gen++
	return nil
}
