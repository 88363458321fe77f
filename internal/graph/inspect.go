package graph

// Inspection is all that the graph knows of one record at one moment, for comparison with what is on
// disk. Slices and blobs are shared with the graph, which never changes them in place.
type Inspection struct {
	Record *Record
	Gen    uint64
	State  State
	Kind   Kind
	// Mut and Imm are copies of the names; nil for one that the record does not have.
	Mut, Imm *Meta
	// Parents are the parents' immutable names as rows list them, and ParentSnapshots their
	// snapshots; "" for what is missing in a diff.
	Parents, ParentSnapshots []string
	// SnapshotCommitted and StrayLease are explained at SetSnapshotCommitted and SetStrayLease.
	SnapshotCommitted, StrayLease bool
}

// Alive tells whether the record is neither condemned nor gone.
func (i *Inspection) Alive() bool { return i.State <= Ready }

// Inspect returns what is known of r, alive or not.
func (g *Graph) Inspect(r *Record) Inspection {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inspectLocked(r)
}

// InspectAll returns what is known of every living record, in no order.
func (g *Graph) InspectAll() []Inspection {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Inspection, 0, len(g.names))
	for id, r := range g.names {
		if r.shownLocked().ID == id {
			out = append(out, g.inspectLocked(r))
		}
	}
	return out
}

func (g *Graph) inspectLocked(r *Record) Inspection {
	i := Inspection{
		Record: r, Gen: r.gen, State: r.state, Kind: r.kind,
		SnapshotCommitted: r.snapshotCommitted, StrayLease: r.strayLease,
		Parents: make([]string, len(r.parents)), ParentSnapshots: make([]string, len(r.parents)),
	}
	if r.mut != nil {
		m := *r.mut
		i.Mut = &m
	}
	if r.imm != nil {
		m := *r.imm
		i.Imm = &m
	}
	for n, p := range r.parents {
		if p != nil && p.imm != nil {
			i.Parents[n], i.ParentSnapshots[n] = p.imm.ID, p.imm.SnapshotID
		}
	}
	return i
}

// Lookup returns the record with a name, be the name hidden or the record condemned; nil for none.
func (g *Graph) Lookup(id string) *Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.names[id]; r != nil {
		return r
	}
	return g.condemned[id]
}

// Pin keeps a living record from being condemned as idle, as a child would, until Unlink. It reports
// false if the record is condemned or gone.
func (g *Graph) Pin(r *Record) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.state > Ready {
		return false
	}
	r.links++
	return true
}
