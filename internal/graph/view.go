package graph

import "runtime"

// View is one record as a consistent picture of the whole graph shows it.
type View struct {
	Record *Record
	Gen    uint64
	// touched is what the record's counter was.
	touched uint64
	// Meta is the name that stands for the record (spec DU-1), a copy.
	Meta Meta
	// Mutable says that Meta is the mutable name.
	Mutable bool
	// Immutable is the immutable name of a pair shown by its mutable one.
	Immutable string
	Kind      Kind
	State     State
	Parents   []string
	// Size is in bytes, -1 if unknown; all that the record owns, whoever else does.
	Size int64
	// Parts are what Size is the sum of, where that was measured and is more than the record's snapshot and blob.
	Parts []Part
	// Own are what of the record's snapshot and blob others may own as well; their sizes are not told.
	Own []Part
	// InUse says that a live ref leads here, directly or through children (spec DU-2).
	InUse bool
	// Held says that a live ref is on this very record.
	Held bool
	// Pinned says that either name of the record must not be pruned.
	Pinned bool
	// Shared is for the caller to set: something outside refers to the record (spec DU-4).
	Shared bool
	// Links counts the records lying on this one, one that names it twice as two.
	Links int
}

// glance is what of a record has to be seen together with all others.
type glance struct {
	record      *Record
	gen         uint64
	touched     uint64
	links       int32
	held, inUse bool
}

// viewChunk is how many records are looked at while the graph is locked.
const viewChunk = 64

// View returns every visible record, in no order. Which ones there are, what they lie on, and which of them are in use is one consistent picture, for
// which the graph is locked for as short as possible. What else is told of a record is read a little later, with others let in
// between; a record that has gone by then is left out.
func (g *Graph) View() []View {
	seen := g.glances()
	out := make([]View, 0, len(seen))
	for len(seen) > 0 {
		n := min(viewChunk, len(seen))
		parents := make([]string, 0, n) // of all of them, one after the other: most have one or none
		g.mu.Lock()
		for i := range seen[:n] {
			if r := seen[i].record; r.place != nowhere {
				first := len(parents)
				parents = r.appendParentsLocked(parents)
				out = append(out, seen[i].viewLocked(r.shownLocked()))
				if len(parents) > first {
					out[len(out)-1].Parents = parents[first:len(parents):len(parents)]
				}
			}
		}
		g.mu.Unlock()
		runtime.Gosched() // whoever was woken by that would wait for the end of this goroutine's time slice else
		seen = seen[n:]
	}
	return out
}

// glances looks at all records together. That is the one thing here that locks the graph for a time that grows with the number of
// records, so nothing is done under the lock that can be done before or for the held ones only.
func (g *Graph) glances() []glance {
	n := g.Counts().Records
	seen := make([]glance, n+n/8) // some may be added by the time it is locked
	clear(seen)                   // or the kernel would provide the memory bit by bit under the lock
	seen = seen[:0]
	var held []*Record
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		seen = append(seen, glance{record: r, gen: r.gen, touched: r.touched, links: r.links}) //nolint:makezero // it was cut to nothing
		if r.heldLocked() {
			held = append(held, r)
		}
	}
	g.stamp++
	for _, r := range held {
		r.mark = g.stamp
		seen[r.place].held, seen[r.place].inUse = true, true
	}
	g.markAncestorsLocked(held, seen)
	return seen
}

// shownLocked returns the name that stands for the record: the immutable one while it has refs,
// else the mutable one while there is one.
func (r *Record) shownLocked() *Meta {
	if r.mut == nil || (r.refs > 0 && r.imm != nil) {
		return r.imm
	}
	return r.mut
}

func (s *glance) viewLocked(m *Meta) View {
	r := s.record
	v := View{
		Record: r, Gen: s.gen, touched: s.touched, Meta: *m, Mutable: m == r.mut, Kind: r.kind, State: r.state, Size: m.Size,
		InUse: s.inUse, Held: s.held, Links: int(s.links), Parts: r.parts, Own: r.ownPartsLocked(),
	}
	v.Pinned = r.mut != nil && r.mut.Pinned || r.imm != nil && r.imm.Pinned
	if v.Mutable && r.imm != nil {
		v.Immutable = r.imm.ID
		if v.Size < 0 {
			v.Size = r.imm.Size
		}
	} else if r.mut != nil && v.Size < 0 {
		v.Size = r.mut.Size
	}
	return v
}

// appendParentsLocked appends the names of the record's parents.
func (r *Record) appendParentsLocked(names []string) []string {
	for _, p := range r.parents {
		if p != nil && p.imm != nil {
			names = append(names, p.imm.ID)
		}
	}
	return names
}

func (r *Record) heldLocked() bool { return r.refs > 0 || r.writer || r.consumed }

// markAncestorsLocked stamps all that stamped records lie on, and notes of those that are visible that they are in use. seen is in the
// order of g.records.
func (g *Graph) markAncestorsLocked(stack []*Record, seen []glance) {
	for len(stack) > 0 {
		r := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, p := range r.parents {
			if p == nil || p.mark == g.stamp {
				continue
			}
			p.mark = g.stamp
			stack = append(stack, p)
			if p.place != nowhere {
				seen[p.place].inUse = true
			}
		}
	}
}

// Counts is the size of the graph.
type Counts struct {
	// Records counts records, a pair once; Refs the live refs, mutable and immutable.
	Records, Refs int
}

// Counts returns the size of the graph.
func (g *Graph) Counts() Counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := Counts{Refs: g.refs, Records: len(g.records)}
	return c
}

// BlobDigests returns the blob digests of the layers of r, bottom first, "" for a layer without (spec WALK-3).
func (g *Graph) BlobDigests(r *Record) []string {
	layers := Layers(r)
	out := make([]string, len(layers))
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, l := range layers {
		if l.imm != nil && l.imm.Blob != nil {
			out[i] = l.imm.Blob.Digest
		}
	}
	return out
}

// WithAncestors returns the records and everything they lie on.
func WithAncestors(records []*Record) map[*Record]bool {
	seen := map[*Record]bool{}
	stack := append([]*Record(nil), records...)
	for len(stack) > 0 {
		r := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if r == nil || seen[r] {
			continue
		}
		seen[r] = true
		stack = append(stack, r.parents...)
	}
	return seen
}
