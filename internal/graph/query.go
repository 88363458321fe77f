package graph

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
	if f&FieldBlob != 0 && m == r.imm {
		g.unlistBlobLocked(r)
		r.confirmed = false
		if from.Blob != nil && from.Blob.Only && (m.Blob == nil || !m.Blob.Only) {
			g.lazyGen++
		}
	}
	m.patch(f, from)
	r.touched++
	if f&FieldBlob != 0 && m == r.imm {
		g.listBlobLocked(r)
	}
	if f&FieldSize != 0 {
		r.sizeGen++
	}
	return true
}

// SetSize notes a measured size, unless what was measured has changed since SizeGen was gen
// (spec SIZE-4). For a pair it is kept at the mutable name. It returns the name to store it under.
func (g *Graph) SetSize(r *Record, gen uint32, size int64) (id string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.sizeGen != gen || r.state > Ready || r.writer {
		return "", false
	}
	m := r.mut
	if m == nil {
		m = r.imm
	}
	m.Size, m.written = size, false
	return m.ID, true
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
// that a merge repeats is repeated.
func Layers(r *Record) []*Record {
	switch r.kind {
	case Layer:
		chain := []*Record{r}
		for p := r.parents[0]; ; p = p.parents[0] {
			if p.kind != Layer {
				return append(Layers(p), reversed(chain)...)
			}
			chain = append(chain, p)
		}
	case Merge:
		var out []*Record
		for _, p := range r.parents {
			out = append(out, Layers(p)...)
		}
		return out
	case Diff:
		if upper := r.SingleUpper(); upper != nil {
			return []*Record{upper}
		}
	}
	return []*Record{r}
}

func reversed(rs []*Record) []*Record {
	out := make([]*Record, len(rs))
	for i, r := range rs {
		out[len(rs)-1-i] = r
	}
	return out
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
