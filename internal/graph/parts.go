package graph

// Part is a physical thing that a record's size is made of: a snapshot, or a blob. Several records may own one.
type Part struct {
	// Snapshot tells a snapshot from a blob.
	Snapshot bool
	// ID is the snapshot's name or the blob's digest.
	ID string
	// Size is in bytes.
	Size int64
}

// SetSize notes a measured size, unless what was measured has changed since SizeGen was gen (spec SIZE-4). Parts are what it is
// the sum of; nil where they are no more than the record's own snapshot and blob. For a pair it is kept at
// the mutable name. It returns the name to store it under.
func (g *Graph) SetSize(r *Record, gen uint32, size int64, parts []Part) (id string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.sizeGen != gen || r.state > Ready || r.writer {
		return "", false
	}
	m := r.mut
	if m == nil {
		m = r.imm
	}
	m.Size, m.written, r.parts = size, false, parts
	return m.ID, true
}

// ownPartsLocked lists what a record owns by what is known of it in memory, without sizes: only what others may own as well. A
// snapshot that a record was made in is its own, until a layer with the same address was found by its blob (spec MGR-29), or
// the same merge was made again. One that is still to be extracted has a share in the snapshot that another one with its address may have
// extracted: its lease keeps it.
func (r *Record) ownPartsLocked() []Part {
	if r.imm == nil {
		return nil
	}
	var out []Part
	b := r.imm.Blob
	if b != nil || r.kind.Derived() || r.imm.SnapshotID != r.imm.ID {
		out = append(out, Part{Snapshot: true, ID: r.imm.SnapshotID})
	}
	if b != nil && b.Digest != "" {
		out = append(out, Part{ID: b.Digest})
	}
	return out
}
