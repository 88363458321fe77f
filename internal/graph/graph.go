package graph

import "sync"

// Verdict answers a request for a record.
type Verdict uint8

// The verdicts. Those that begin with Need hand the caller a reservation, which it must turn
// into a ref or give back.
const (
	// OK: granted.
	OK Verdict = iota
	// NotFound: no visible record has the name.
	NotFound
	// Locked: live refs exclude the request.
	Locked
	// Immutable: a mutable record is needed, and the name is that of an immutable one.
	Immutable
	// NeedSeal: granted once the record is sealed; end it with Seal or AbortWriter.
	NeedSeal
	// NeedReopen: granted once the record is open again; end it with Reopen or AbortReopen.
	NeedReopen
	// Misused: the ref is not in a state that allows the request.
	Misused
)

// Graph is the set of records. Its zero value is not usable; call New.
type Graph struct {
	mu    sync.Mutex
	names map[string]*Record
	// condemned holds the names of records whose deletion is under way.
	condemned map[string]*Record

	// chains and blobChains find records by what their content is made of; each list is in the order of
	// the records' immutable names.
	chains, blobChains map[string][]*Record
	// recipes finds merges and diffs by their parents.
	recipes map[recipe][]*Record

	lazyBlobs int // records whose Blob.Only is set: while there are none, no walk is needed
	// lazyGen grows when a record that others may lie on turns lazy; see Record.unlazyAt.
	lazyGen uint64
	refs    int
	records []*Record // visible ones, for those who look at all of them; see Record.place
	used    []*Meta   // names whose use counts have grown since TakeUses
	stamp   uint32
}

// New returns an empty graph.
func New() *Graph {
	return &Graph{
		names: map[string]*Record{}, condemned: map[string]*Record{},
		chains: map[string][]*Record{}, blobChains: map[string][]*Record{}, recipes: map[recipe][]*Record{}, lazyGen: 1,
	}
}

// Spec describes a record to Insert.
type Spec struct {
	Kind    Kind
	Parents []*Record
	State   State
	// Mut and Imm are the names; the graph owns them from now on. Which of them is needed
	// follows from State.
	Mut, Imm *Meta
	// StrayLease says that a lease of the immutable name exists though nothing is finalized.
	StrayLease bool
	// Ref, Writer and Triggers say what the caller holds from the start: one immutable ref,
	// or the mutable one, and whether its end counts as a use.
	Ref, Writer, Triggers bool
	// Room, if there is one, is where the record is made. It serves one record only.
	Room *Room
}

// Room is memory for a record, one name of it, and its parent, in one piece: a third of the allocations for those who make very
// many records.
type Room struct {
	// Meta is to be Mut or Imm of the Spec that has the room.
	Meta   Meta
	record Record
	parent [1]*Record
}

// fill makes the record of s in the room.
func (m *Room) fill(s *Spec) *Record {
	if len(s.Parents) == len(m.parent) {
		m.parent[0] = s.Parents[0]
		s.Parents = m.parent[:]
	}
	return &m.record
}

// Expect prepares an empty graph for about n records, so that it need not grow to that size little by little.
func (g *Graph) Expect(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.names) == 0 && n > 0 {
		g.names, g.records = make(map[string]*Record, n), make([]*Record, 0, n)
	}
}

// Insert makes a record visible. The links on the parents must have been taken with Link; the
// new record owns them from now on. It reports false, and changes nothing, if a name is taken.
func (g *Graph) Insert(s Spec) (*Record, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.takenLocked(&s) {
		return nil, false
	}
	return g.insertLocked(s), true
}

func (g *Graph) takenLocked(s *Spec) bool {
	return s.Mut != nil && g.names[s.Mut.ID] != nil || s.Imm != nil && g.names[s.Imm.ID] != nil
}

// InsertAll makes a record, the last, visible together with some of its parents, those before it: of a merge each
// parent that is nil stands for the next of them. Nobody holds these but the last. It reports false, and
// changes nothing, if a name is taken.
func (g *Graph) InsertAll(specs []Spec) ([]*Record, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range specs {
		if g.takenLocked(&specs[i]) {
			return nil, false
		}
	}
	recs := make([]*Record, len(specs))
	for i, s := range specs {
		if i == len(specs)-1 && i > 0 {
			s.Parents = filled(s.Parents, recs[:i])
		}
		recs[i] = g.insertLocked(s)
		if i < len(specs)-1 {
			recs[i].links = 1
		}
	}
	return recs, true
}

// filled puts records, in order, where parents are nil.
func filled(parents, with []*Record) []*Record {
	out := make([]*Record, len(parents))
	for i, p := range parents {
		if p == nil {
			p, with = with[0], with[1:]
		}
		out[i] = p
	}
	return out
}

// showLocked has a record among those that are visible.
func (g *Graph) showLocked(r *Record) {
	r.place = len(g.records)
	g.records = append(g.records, r)
}

// hideLocked takes a record out of those that are visible.
func (g *Graph) hideLocked(r *Record) {
	last := len(g.records) - 1
	g.records[r.place], g.records[last].place = g.records[last], r.place
	g.records[last], r.place = nil, nowhere
	g.records = g.records[:last]
}

func (g *Graph) insertLocked(s Spec) *Record {
	var r *Record
	if s.Room != nil {
		r = s.Room.fill(&s)
	} else {
		r = new(Record)
	}
	*r = Record{kind: s.Kind, parents: s.Parents, state: s.State, mut: s.Mut, imm: s.Imm, strayLease: s.StrayLease}
	r.layers = countLayers(s.Kind, s.Parents)
	for _, m := range [...]*Meta{s.Mut, s.Imm} {
		if m != nil {
			g.names[m.ID] = r
		}
	}
	r.tainted = r.legacyLocked()
	for _, p := range r.parents {
		r.tainted = r.tainted || p != nil && p.tainted
	}
	g.listLocked(r)
	g.showLocked(r)
	switch {
	case s.Ref:
		g.addRefLocked(r, s.Triggers)
	case s.Writer:
		r.writer, r.writerTriggers = true, s.Triggers
		g.refs++
	}
	return r
}

// listLocked makes a record findable by what it is made of.
func (g *Graph) listLocked(r *Record) {
	g.listBlobLocked(r)
	g.listRecipeLocked(r)
}

func (g *Graph) unlistLocked(r *Record) {
	g.unlistBlobLocked(r)
	g.unlistRecipeLocked(r)
}

func (g *Graph) addRefLocked(r *Record, triggers bool) {
	r.touched++
	r.refs++
	r.abandoned = false
	g.refs++
	if triggers {
		r.triggers++
	}
}

// metaLocked finds a visible name.
func (g *Graph) metaLocked(id string) (*Record, *Meta) {
	r := g.names[id]
	switch {
	case r == nil:
	case r.mut != nil && r.mut.ID == id:
		return r, r.mut
	case r.imm != nil && r.imm.ID == id && !r.hidden:
		return r, r.imm
	}
	return nil, nil
}

// Ref asks for an immutable ref by name, either name (spec MGR-7, MGR-9, MGR-10). With OK it returns the
// immutable name, and whether LazyBlobs has to be asked: then the ref counts as a use only once Trigger
// was called. With NeedSeal the caller holds the writer's
// place, and what it asked for arrives with Seal.
func (g *Graph) Ref(id string, triggers bool) (r *Record, imm string, lazy bool, v Verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, m := g.metaLocked(id)
	switch {
	case r == nil:
		return nil, "", false, NotFound
	case m == r.imm, r.state == Sealed && !r.writer && !r.consumed:
		lazy = g.lazyBlobs > 0
		g.addRefLocked(r, triggers && !lazy)
		return r, r.imm.ID, lazy, OK
	case r.writer || r.consumed:
		return nil, "", false, Locked
	}
	r.writer, r.writerTriggers = true, triggers
	g.refs++
	return r, "", false, NeedSeal
}

// Trigger makes a ref that was taken without counting one that counts as a use.
func (g *Graph) Trigger(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.triggers++
}

// Writer asks for the mutable ref by name (spec MGR-13, MGR-14). With NeedReopen the immutable
// name is hidden until Reopen or AbortReopen.
func (g *Graph) Writer(id string) (*Record, Verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, m := g.metaLocked(id)
	switch {
	case r == nil:
		return nil, NotFound
	case m == r.imm:
		return nil, Immutable
	case r.snapshotCommitted:
		return nil, NotFound
	case r.writer || r.consumed || r.refs > 0 || r.links > 0:
		return nil, Locked
	}
	r.writer, r.writerTriggers = true, true
	g.refs++
	if r.state == Sealed {
		r.hidden = true
		return r, NeedReopen
	}
	return r, OK
}

// Clone takes another ref on a record that is alive under the immutable name id, whether or not its
// caller still holds one (spec REF-1, MGR-6). It reports false if that name is gone.
func (g *Graph) Clone(r *Record, id string, triggers bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !r.takesRefsLocked(id) {
		return false
	}
	g.addRefLocked(r, triggers)
	return true
}

// takesRefsLocked tells whether r is there under the name id. A record that was taken back and
// committed anew has another.
func (r *Record) takesRefsLocked(id string) bool {
	return (r.state == Sealed || r.state == Lazy || r.state == Ready) && !r.hidden && r.imm.ID == id
}

// Link takes the place of a child on r, as Clone does.
func (g *Graph) Link(r *Record, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !r.takesRefsLocked(id) {
		return false
	}
	r.links++
	r.abandoned = false
	return true
}

// Unlink gives back what Link took. now is the time of a use that may have waited for it.
func (g *Graph) Unlink(r *Record, now int64) Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.links--
	return g.settleLocked(r, now)
}

// Seal publishes that the writer's snapshot was committed by its user under the name of imm,
// and turns the writer into an immutable ref (spec REF-15, REF-16).
func (g *Graph) Seal(r *Record, imm *Meta, triggers bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !r.writer {
		return &TransitionError{State: r.state, Event: Seal}
	}
	if err := r.apply(Seal); err != nil {
		return err
	}
	r.imm, r.consumed, r.owesBump = imm, true, r.writerTriggers
	r.forgetSizeLocked()
	r.mut.written = true
	r.writer, r.writerTriggers = false, false
	g.names[imm.ID] = r
	g.refs--
	g.addRefLocked(r, triggers)
	return nil
}

// Reopen publishes that the immutable name is no more; the caller's reservation is a mutable ref now.
func (g *Graph) Reopen(r *Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := r.apply(Reopen); err != nil {
		return err
	}
	g.unlistBlobLocked(r)
	delete(g.names, r.imm.ID)
	r.imm, r.hidden, r.strayLease = nil, false, false
	return nil
}

// AbortReopen gives back the reservation that Writer made with NeedReopen.
func (g *Graph) AbortReopen(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.hidden, r.writer, r.writerTriggers = false, false, false
	g.refs--
}

// AbortWriter gives back the reservation that Ref made with NeedSeal; the record stays as it was.
func (g *Graph) AbortWriter(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.writer, r.writerTriggers = false, false
	g.refs--
}

// Finalize publishes that the snapshot is committed and that the mutable name is no more (spec REF-11).
func (g *Graph) Finalize(r *Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := r.apply(Finalize); err != nil {
		return err
	}
	delete(g.names, r.mut.ID)
	r.mut, r.consumed, r.owesBump, r.snapshotCommitted, r.strayLease = nil, false, false, false, false
	r.forgetSizeLocked()
	return nil
}

// Materialize publishes that the snapshot of a lazy record is there; on any other record it does nothing.
func (g *Graph) Materialize(r *Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.state == Ready {
		return nil
	}
	r.forgetSizeLocked() // what was known was the size without a snapshot
	return r.apply(Materialize)
}

// Lose publishes that the snapshot of a ready record is gone, and that it can be made again.
func (g *Graph) Lose(r *Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.state == Lazy {
		return nil
	}
	r.forgetSizeLocked()
	return r.apply(Lose)
}

// SetSnapshotCommitted notes that the snapshot of a sealed record is committed although its rows
// say otherwise (spec REF-14).
func (g *Graph) SetSnapshotCommitted(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.snapshotCommitted = true
}

// SetStrayLease notes that a lease of the immutable name may exist though nothing is finalized.
func (g *Graph) SetStrayLease(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.strayLease = true
}

// SetMounted notes that something must be undone when the last ref goes.
func (g *Graph) SetMounted(r *Record, mounted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.mounted = mounted
}
