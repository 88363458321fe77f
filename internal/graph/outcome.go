package graph

import "runtime"

// Use is the use count of a name, to be written to its row.
type Use struct {
	ID         string
	LastUsedAt int64 // Unix nanoseconds
	Count      int
	// Written says that the snapshot may have been written to, so that a stored size is void.
	Written bool
}

// Outcome is what dropping a ref asks of the caller.
type Outcome struct {
	// UsesDue says that there are uses to write where there were none.
	UsesDue bool
	// Last says that no ref is left.
	Last bool
	// Unmount says that no ref is left while something is mounted.
	Unmount bool
	// Remove says that the record has just been condemned, and must be deleted.
	Remove bool
}

// bumpLocked counts a use, which TakeUses will list. It reports whether there was none to list before.
func (g *Graph) bumpLocked(m *Meta, now int64) bool {
	m.UsageCount++
	m.LastUsedAt = now
	if m.used {
		return false
	}
	m.used = true
	g.used = append(g.used, m)
	return len(g.used) == 1
}

// TakeUses lists the names whose use counts have grown since the last call.
func (g *Graph) TakeUses() []Use {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Use, len(g.used))
	for i, m := range g.used {
		m.used = false
		out[i] = Use{ID: m.ID, LastUsedAt: m.LastUsedAt, Count: m.UsageCount, Written: m.written}
		m.written = false
	}
	g.used = nil
	return out
}

// DropRef ends an immutable ref (spec REF-3 to REF-8). now is the time of use, in Unix nanoseconds.
func (g *Graph) DropRef(r *Record, triggers bool, now int64) Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.refs--
	g.refs--
	due := false
	if triggers {
		r.triggers--
		if r.triggers == 0 {
			due = g.bumpLocked(r.imm, now)
			if r.state == Sealed {
				r.owesBump = true
			}
		}
	}
	o := g.settleLocked(r, now)
	o.UsesDue = o.UsesDue || due
	return o
}

// UndoRef takes back a ref that its caller never got, and that does not count as a use.
func (g *Graph) UndoRef(r *Record) Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.refs--
	g.refs--
	return g.settleLocked(r, 0)
}

// Abandon takes back the only ref of a record that was just made and turned out to be of no use. If
// nobody else has come to hold it, it is condemned: at once or, if work on it is still being ended, by the Unlink of
// the last who pins it.
func (g *Graph) Abandon(r *Record) Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.refs--
	r.triggers-- // a new record's first ref counts as a use
	g.refs--
	if r.idleLocked() {
		g.condemnLocked(r)
		return Outcome{Last: true, Remove: true}
	}
	r.abandoned = r.refs == 0
	return g.settleLocked(r, 0)
}

// settleLocked decides what becomes of a record that has lost a ref or a link.
func (g *Graph) settleLocked(r *Record, now int64) Outcome {
	var o Outcome
	if r.refs > 0 || r.writer {
		return o
	}
	o.Last = true
	if r.abandoned && r.idleLocked() {
		o.Remove = true
		g.condemnLocked(r)
		return o
	}
	if r.state == Sealed && r.links == 0 {
		if !r.mut.Retain && !r.imm.Retain {
			o.Remove = true
			g.condemnLocked(r)
			return o
		}
		if r.owesBump && now != 0 {
			o.UsesDue = g.bumpLocked(r.mut, now)
			r.owesBump = false
		}
		r.consumed = false
	}
	o.Unmount = r.mounted
	return o
}

// DropWriter ends the mutable ref (spec REF-8).
func (g *Graph) DropWriter(r *Record, now int64) Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	var o Outcome
	triggers := r.writerTriggers
	r.forgetSizeLocked()
	r.writer, r.writerTriggers = false, false
	g.refs--
	o.Last = true
	if r.mut.Retain {
		r.mut.written = true
		if triggers {
			o.UsesDue = g.bumpLocked(r.mut, now)
		}
		r.touched++
		o.Unmount = r.mounted
		return o
	}
	o.Remove = true
	g.condemnLocked(r)
	return o
}

// condemnLocked hides a record whose deletion begins. The state machine allows it in every living state.
func (g *Graph) condemnLocked(r *Record) {
	if err := r.apply(Condemn); err != nil {
		return
	}
	g.hideLocked(r)
	g.unlistLocked(r)
	for _, m := range []*Meta{r.mut, r.imm} {
		if m != nil {
			delete(g.names, m.ID)
			g.condemned[m.ID] = r
		}
	}
}

// Condemn chooses idle records for deletion, in order: a record that others lie on may go with them if they come before it, or are among
// those that were condemned before and are yet to be dropped. It returns those that it chose. The others are in use, have more children, or were used or changed since the views were
// taken. Others are let in between, so that they wait for few records only.
func (g *Graph) Condemn(views []*View, before ...*Record) (chosen []*View) {
	going := make(map[*Record]int32, len(before)+len(views)) // links of those chosen
	for _, r := range before {
		r.countParents(going)
	}
	for len(views) > 0 {
		n := min(viewChunk, len(views))
		g.mu.Lock()
		for _, v := range views[:n] {
			if g.condemnViewLocked(v, going) {
				chosen = append(chosen, v)
			}
		}
		g.mu.Unlock()
		runtime.Gosched() // as in View
		views = views[n:]
	}
	return chosen
}

// countParents counts the links that the record has on others.
func (r *Record) countParents(links map[*Record]int32) {
	for _, p := range r.parents {
		if p != nil {
			links[p]++
		}
	}
}

func (g *Graph) condemnViewLocked(v *View, going map[*Record]int32) bool {
	r := v.Record
	if r.gen != v.Gen || r.touched != v.touched || !r.idleButLocked(going[r]) {
		return false
	}
	g.condemnLocked(r)
	r.countParents(going)
	return true
}

func (r *Record) idleLocked() bool { return r.idleButLocked(0) }

// idleButLocked tells whether nothing holds the record but a number of links.
func (r *Record) idleButLocked(links int32) bool {
	return r.state <= Ready && r.refs == 0 && r.links == links && !r.writer && !r.consumed && !r.hidden
}

// Restore takes a condemnation back: the deletion could not begin, and nothing was changed on disk.
func (g *Graph) Restore(r *Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := r.apply(Restore); err != nil {
		return err
	}
	g.showLocked(r)
	for _, m := range []*Meta{r.mut, r.imm} {
		if m != nil {
			delete(g.condemned, m.ID)
			g.names[m.ID] = r
		}
	}
	g.listLocked(r)
	r.consumed = false
	return nil
}

// Drop ends a condemned record and gives its links back, once for each place in which it named
// a parent. The result lists parents that ask for something in turn.
func (g *Graph) Drop(r *Record) ([]Follow, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := r.apply(Drop); err != nil {
		return nil, err
	}
	for _, m := range []*Meta{r.mut, r.imm} {
		if m != nil {
			delete(g.condemned, m.ID)
		}
	}
	var out []Follow
	for _, p := range r.parents {
		if p == nil {
			continue
		}
		p.links--
		if o := g.settleLocked(p, 0); o.Remove {
			out = append(out, Follow{Record: p, Outcome: o})
		}
	}
	return out, nil
}

// Follow is what the end of one record asks of another.
type Follow struct {
	Record  *Record
	Outcome Outcome
}
