package graph

// Kind is the family of a record's parents (spec REC-1).
type Kind uint8

// The kinds of records.
const (
	// BaseLayer has no parent.
	BaseLayer Kind = iota
	// Layer lies on one parent.
	Layer
	// Merge joins several parents, in order.
	Merge
	// Diff is what lies between two parents, lower and upper, either of which may be missing.
	Diff
)

var kindNames = [...]string{BaseLayer: "base layer", Layer: "layer", Merge: "merge", Diff: "diff"}

// String names the kind.
func (k Kind) String() string { return kindNames[k] }

// Derived tells whether a record of this kind is made of others' layers, and has none of its own that was written.
func (k Kind) Derived() bool { return k == Merge || k == Diff }

// Record is one snapshot with its names. Kind, parents and the number of layers never change; all else belongs to
// the Graph and is reached through its methods.
type Record struct {
	kind Kind
	// parents of a Diff is always {lower, upper} with nil for what is missing.
	parents []*Record
	// layers is LayerCount.
	layers int32

	// Everything below is guarded by Graph.mu.

	state, before State
	gen           uint64
	mut, imm      *Meta

	refs, triggers, links int32
	writer                bool // live or reserved
	writerTriggers        bool
	consumed              bool
	owesBump              bool // the mutable name is due a use when the pair's last ref goes
	hidden                bool // a reopen is under way: the immutable name is not to be found
	snapshotCommitted     bool // finalized on disk, though the rows could not follow (REF-14)
	strayLease            bool // a lease of the immutable name exists though nothing is finalized (MGR-14)
	mounted               bool
	abandoned             bool // of no use to who made it, see Graph.Abandon; whoever takes it up changes that
	sizeGen               uint32
	parts                 []Part // see View.Parts; replaced, never changed in place
	// touched counts refs taken, uses and patches: what makes a look at the record out of date
	// though its state is the same.
	touched uint64
	mark    uint32 // last traversal that came by
	place   int    // in Graph.records; nowhere if the record is not among them
	// unlazyAt is the Graph.lazyGen at which neither the record nor anything it lies on was lazy. As
	// nothing turns lazy without that number growing, it still holds if they are equal.
	unlazyAt uint64
	// tainted says that the record, or one it lies on, is legacy (spec REC-10).
	tainted bool
	// confirmed says that the address in imm.Blob is what its layers make; see Graph.Address.
	confirmed bool
}

// nowhere is the place of a record that is not visible.
const nowhere = -1

// Kind returns the family of the record's parents.
func (r *Record) Kind() Kind { return r.kind }

// Parents returns the parents in order; a diff's are lower and upper, nil where missing. The
// slice belongs to the record.
func (r *Record) Parents() []*Record { return r.parents }

// Meta is what is stored of one name of a record, typed.
type Meta struct {
	ID          string
	SnapshotID  string
	Description string
	RecordType  string
	LayerType   string
	ImageRefs   []string
	// CreatedAt and LastUsedAt are Unix nanoseconds, 0 if unset or never.
	CreatedAt, LastUsedAt int64
	UsageCount            int
	// Size is in bytes, -1 if unknown.
	Size int64
	// Retain is the cache policy.
	Retain bool
	// Pinned says that the record must not be pruned.
	Pinned bool
	// Blob is nil for a record that never had one.
	Blob *Blob

	used    bool // listed in Graph.used
	written bool // see Use.Written
}

// Blob is what is stored of a record's layer blob. It is replaced, never changed in place.
type Blob struct {
	Digest, DiffID, LayerIdentity string
	ChainID, BlobChainID          string
	MediaType                     string
	URLs                          []string
	Size                          int64
	// Only says that no snapshot was extracted yet.
	Only bool
	// Common says that MediaType is one of an ordinary layer.
	Common bool
}

// Field selects members of Meta.
type Field uint32

// The fields that Graph.Patch can set.
const (
	FieldDescription Field = 1 << iota
	FieldRecordType
	FieldLayerType
	FieldImageRefs
	FieldCreatedAt
	FieldUsage // LastUsedAt and UsageCount
	FieldRetain
	FieldSnapshotID
	FieldPinned
)

func (m *Meta) patch(f Field, from *Meta) {
	if f&FieldDescription != 0 {
		m.Description = from.Description
	}
	if f&FieldRecordType != 0 {
		m.RecordType = from.RecordType
	}
	if f&FieldLayerType != 0 {
		m.LayerType = from.LayerType
	}
	if f&FieldImageRefs != 0 {
		m.ImageRefs = from.ImageRefs
	}
	if f&FieldCreatedAt != 0 {
		m.CreatedAt = from.CreatedAt
	}
	if f&FieldUsage != 0 {
		m.LastUsedAt, m.UsageCount = from.LastUsedAt, from.UsageCount
	}
	if f&FieldRetain != 0 {
		m.Retain = from.Retain
	}
	if f&FieldPinned != 0 {
		m.Pinned = from.Pinned
	}
	if f&FieldSnapshotID != 0 {
		m.SnapshotID = from.SnapshotID
	}
}
