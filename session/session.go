// Package session names the clients on whose behalf a build step runs.
//
// The cache never talks to a client. It only hands a Group on to the code that does:
// a content provider that needs credentials, or a remote snapshotter that asks for them.
// The interfaces match BuildKit's, so that a value of either satisfies both.
package session

// Iterator yields the IDs of the sessions of a group, one a call.
type Iterator interface {
	// NextSession returns the next session ID, or "" when none is left.
	NextSession() string
}

// Group is a set of client sessions that share a build step. A nil Group is legal
// wherever the cache takes one and means "no session".
type Group interface {
	// SessionIterator returns a fresh iterator over the IDs of the group.
	SessionIterator() Iterator
}

// NewGroup returns a group of the given session IDs, in that order. Empty IDs are left out,
// since "" ends an iteration.
func NewGroup(ids ...string) Group {
	g := make(group, 0, len(ids))
	for _, id := range ids {
		if id != "" {
			g = append(g, id)
		}
	}
	return g
}

// AllSessionIDs returns every session ID of g in iteration order; nil for a nil group.
func AllSessionIDs(g Group) []string {
	if g == nil {
		return nil
	}
	it := g.SessionIterator()
	if it == nil {
		return nil
	}
	var out []string
	for id := it.NextSession(); id != ""; id = it.NextSession() {
		out = append(out, id)
	}
	return out
}

type group []string

func (g group) SessionIterator() Iterator {
	return &iterator{rest: g}
}

type iterator struct{ rest []string }

func (it *iterator) NextSession() string {
	if len(it.rest) == 0 {
		return ""
	}
	id := it.rest[0]
	it.rest = it.rest[1:]
	return id
}
