package graph

import "slices"

// Names are the IDs of a record, "" for a name it does not have.
type Names struct {
	Mut, Imm string
	// MutSnapshot and ImmSnapshot are the snapshot IDs.
	MutSnapshot, ImmSnapshot string
}

// Status is what an operation on one record has to know; a copy.
type Status struct {
	Names
	State             State
	SnapshotCommitted bool
	StrayLease        bool
	Writer            bool
	Refs              int
	Blob              *Blob
	LayerType         string
	Description       string
	SizeGen           uint32
	Size              int64
}

// Status returns what is known of r.
func (g *Graph) Status(r *Record) Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{
		State: r.state, SnapshotCommitted: r.snapshotCommitted, StrayLease: r.strayLease,
		Writer: r.writer, Refs: int(r.refs), SizeGen: r.sizeGen, Size: -1,
	}
	if m := r.mut; m != nil {
		s.Mut, s.MutSnapshot, s.LayerType, s.Description, s.Size = m.ID, m.SnapshotID, m.LayerType, m.Description, m.Size
	}
	if m := r.imm; m != nil {
		s.Imm, s.ImmSnapshot, s.LayerType, s.Description = m.ID, m.SnapshotID, m.LayerType, m.Description
		s.Blob = m.Blob
		if s.Mut == "" || m.Size >= 0 {
			s.Size = m.Size
		}
	}
	return s
}

// Meta returns a copy of what is stored under a visible name. Slices and the Blob are shared
// with the graph, which never changes them in place.
func (g *Graph) Meta(id string) (Meta, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, m := g.metaLocked(id); m != nil {
		return *m, true
	}
	return Meta{}, false
}

// Has reports whether a visible record has the name.
func (g *Graph) Has(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, m := g.metaLocked(id)
	return m != nil
}

// Patch sets the fields f of a name from from, after they were stored. It reports false if the
// name is no more.
func (g *Graph) Patch(id string, f Field, from *Meta) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, m := g.metaLocked(id)
	if m == nil {
		return false
	}
	m.patch(f, from)
	r.touched++
	return true
}

// InvalidateSize forgets the size of r.
func (g *Graph) InvalidateSize(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.forgetSizeLocked()
}

// forgetSizeLocked makes the size unknown, and whatever is being measured of no use.
func (r *Record) forgetSizeLocked() {
	r.sizeGen++
	r.parts = nil
	for _, m := range []*Meta{r.mut, r.imm} {
		if m != nil {
			m.Size = -1
		}
	}
}

// ParentIDs returns the immutable names of r's parents; a diff's are {lower, upper} with "" for what is missing.
func (g *Graph) ParentIDs(r *Record) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := make([]string, len(r.parents))
	for i, p := range r.parents {
		if p != nil && p.imm != nil {
			ids[i] = p.imm.ID
		}
	}
	return ids
}

// EqualMutable returns the mutable name of the pair whose immutable name is id.
func (g *Graph) EqualMutable(id string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, m := g.metaLocked(id)
	if r == nil || m != r.imm || r.mut == nil {
		return "", false
	}
	return r.mut.ID, true
}

// Layers returns the layers a record consists of, bottom first (spec WALK-1, WALK-2). A record
// that a merge repeats is repeated. Chains may be deep, so the stack is explicit.
func Layers(r *Record) []*Record {
	out := make([]*Record, 0, min(r.LayerCount(), 1<<10))
	stack := []*Record{r} // what is on top comes first, so it is written from the end
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		switch at.kind {
		case Layer:
			out = append(out, at)
			stack = append(stack, at.parents[0])
		case Merge:
			stack = append(stack, at.parents...)
		case Diff:
			if upper := at.SingleUpper(); upper != nil {
				at = upper
			}
			out = append(out, at)
		case BaseLayer:
			out = append(out, at)
		}
	}
	slices.Reverse(out)
	return out
}

// LayerCount is the number of layers that Layers lists, at most maxLayerCount.
func (r *Record) LayerCount() int { return int(r.layers) }

// maxLayerCount is where counting ends: merges of merges with layers in between double with each step.
const maxLayerCount = 1 << 30

// countLayers works out LayerCount of a new record from its parents'.
func countLayers(kind Kind, parents []*Record) int32 {
	n := int32(1)
	switch kind {
	case Layer:
		n += parents[0].layers
	case Merge:
		n = 0
		for _, p := range parents {
			n = min(n+p.layers, maxLayerCount)
		}
	case Diff, BaseLayer:
	}
	return min(n, maxLayerCount)
}

// SingleUpper returns the upper parent of a diff whose content is exactly that layer, else nil
// (spec WALK-2).
func (r *Record) SingleUpper() *Record {
	if r.kind != Diff {
		return nil
	}
	lower, upper := r.parents[0], r.parents[1]
	switch {
	case upper == nil:
		return nil
	case lower == nil && upper.kind == BaseLayer:
		return upper
	case lower != nil && upper.kind == Layer && upper.parents[0] == lower:
		return upper
	}
	return nil
}

// ImmutableID returns the immutable name of a record that has one, visible or not, else "".
func (g *Graph) ImmutableID(r *Record) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.imm == nil {
		return ""
	}
	return r.imm.ID
}
