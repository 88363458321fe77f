package cache

import (
	"context"
	stderrors "errors"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/moby/sys/user"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/flight"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/invariant"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/progress"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/usage"
)

// MetadataStore finds records by what was stored in their rows.
type MetadataStore interface {
	// Search returns the records with a value indexed under exactly index or, if prefix is set,
	// under an index that begins with it; then a record appears once per matching value. The order
	// is that of the index strings. Deleted records are left out (spec META-8, MV-2).
	Search(ctx context.Context, index string, prefix bool) ([]RefMetadata, error)
}

// Accessor hands out refs.
type Accessor interface {
	MetadataStore

	// Get returns a ref to the record named id. The ID of an idle mutable record seals it and
	// yields its immutable half (spec MGR-10). Errors: IsNotFound; ErrLocked while a mutable ref
	// is out; NeedsRemoteProviderError if blobs of the chain are neither local nor have a handler.
	Get(ctx context.Context, id string, pg progress.Controller, opts ...RefOption) (ImmutableRef, error)
	// GetByBlob returns a ref to the record of the layer that desc describes, on the layers of parent; it makes
	// one if there is none. Nothing is fetched or unpacked before somebody needs the tree, unless Unlazy is among
	// the options. desc must have the annotation "containerd.io/uncompressed", the digest of the layer
	// uncompressed; without a digest it is a layer without content. The caller keeps its ref to the parent,
	// whose layers must all have come from blobs or have them (spec MGR-16 to MGR-30).
	//
	// Errors: an invalid argument for a bad descriptor; NeedsRemoteProviderError if a blob of the layer or
	// the parent's chain is neither local nor has a handler; failed precondition for a parent that cannot be addressed; with Unlazy
	// those of Extract, and then a record that was made by the call is gone.
	GetByBlob(ctx context.Context, desc ocispecs.Descriptor, parent ImmutableRef, opts ...RefOption) (ImmutableRef, error)
	// New makes a record with a writable snapshot on parent, or on nothing if parent is nil, and
	// returns the only ref to it. The caller keeps its own ref to the parent.
	New(ctx context.Context, parent ImmutableRef, s session.Group, opts ...RefOption) (MutableRef, error)
	// GetMutable returns the only mutable ref to the record named id, taking back a Commit that
	// was not finalized; the committed half's ID is not found from then on. Errors: IsNotFound;
	// ErrLocked while any ref to either half is out; an invalid argument for an immutable record.
	GetMutable(ctx context.Context, id string, opts ...RefOption) (MutableRef, error)
	// IdentityMapping is the user namespace the snapshotter stores owners in; nil for none.
	IdentityMapping() *user.IdentityMapping
	// Merge returns a ref to a record whose tree is what results if the layers of the parents are put on top of each other in
	// this order, as if they were one image: what a later one adds, changes or deletes hides what an earlier one
	// has. A parent that is a merge stands for its own parents. Nil parents are left out; without any the result is nil, and so
	// is the error. One parent alone yields another ref to that parent, which does not count as a use, and the options are
	// of no account. The tree is made when somebody needs it: Extract, Mount, New on top. pg is told about that.
	//
	// The caller keeps its refs to the parents, which are finalized. The new ref has the handlers of all of them, a later parent's
	// before an earlier one's. Errors: IsNotFound if a parent is gone; an invalid argument if there were too many layers; those
	// of Finalize and of the backend, after which nothing is left of the call (spec MGR-31 to MGR-36).
	Merge(ctx context.Context, parents []ImmutableRef, pg progress.Controller, opts ...RefOption) (ImmutableRef, error)
	// Diff returns a ref to a record whose tree is what has to be put on top of lower's to get upper's. A nil upper stands for an
	// empty tree; a nil lower is an invalid argument. If upper lies on lower with several layers in between the result
	// is the merge of these, which keeps them apart. Everything else is as with Merge (spec MGR-37 to MGR-40).
	Diff(ctx context.Context, lower, upper ImmutableRef, pg progress.Controller, opts ...RefOption) (ImmutableRef, error)
}

// Controller reports what the cache occupies, and gives it back.
type Controller interface {
	// DiskUsage describes every record that the filters and the age limit let through, in no
	// order. If a size cannot be measured the error comes with the list, in which it is 0.
	// It changes nothing but the sizes it remembers. A snapshot or blob that several records own is counted at the oldest
	// of them, so that the sizes sum up to what is on disk.
	DiskUsage(ctx context.Context, info usage.DiskUsageInfo) ([]*usage.Info, error)
	// WalkUsage is DiskUsage for very many records: it calls fn with each description, which is fn's, one after the other. An error
	// of fn ends it and is returned. fn may call the manager.
	WalkUsage(ctx context.Context, info usage.DiskUsageInfo, fn func(*usage.Info) error) error
	// Prune deletes idle records as the policies allow, one policy after the other, and then has
	// the backend collect what that set free. Each deleted record is sent to ch, unless that is nil, with the bytes that came free
	// with it as its size; ch is not closed. A consumer may call the manager, and one that stops reading holds up nothing but this call and
	// other calls of Prune, of which only one runs at a time. Prune returns when ctx ends, and with ErrClosed at Close; what was
	// deleted stays deleted. With an invalid policy nothing is deleted at all, and with DryRun neither: the same
	// records are sent as would be deleted.
	Prune(ctx context.Context, ch chan usage.Info, policies ...usage.PruneInfo) error
}

// Manager is a layer cache. Its methods may be called from any goroutine; see the package
// comment for what a ref may do and when.
type Manager interface {
	Accessor
	Controller
	Checker
	Inspector
	// Stats counts what the manager has in memory.
	Stats() Stats
	// Totals counts the records and their bytes by state, kind and type.
	Totals() []Total
	// Holders lists the live refs to the record named id, or to all records if id is empty, and those that leaked, the oldest first. It
	// is empty unless ManagerOpt.TrackHolders is set.
	Holders(id string) []Holder
	// Close waits for the operations under way, except that Prune deletes no more, has the trees of idle records flushed to disk (see
	// ManagerOpt.SyncFS), writes what is pending and closes the metadata store. It does not release refs, nor
	// mounts that are in use: those go by their own releases, and an error tells of what nobody uses and cannot be
	// unmounted. Calls afterwards fail with ErrClosed; a second Close returns nil.
	Close() error
}

// Stats counts what a manager has in memory.
type Stats struct {
	// Records counts the visible records, a lazily committed pair once.
	Records int `json:"records"`
	// Refs counts the live refs, those of operations under way included.
	Refs int `json:"refs"`
	// Mounts counts the records whose mounts are remembered.
	Mounts int `json:"mounts"`
}

type manager struct {
	opt     ManagerOpt
	store   *metadata.Store
	storeID string
	// resourceType is how leases name snapshots of the snapshotter.
	resourceType string
	caps         snapshot.Capabilities
	// merger is opt.Snapshotter.
	merger snapshot.MergeSnapshotter

	g         *graph.Graph
	slots     flight.Slots[*graph.Record]
	metaSlots flight.Slots[string]
	nameSlots flight.Slots[string] // see claimName
	treeSlots flight.Slots[string] // by snapshot: one of those who share it makes it
	blobSlots flight.Slots[string] // see findOrMake
	pruneSlot flight.Slots[struct{}]
	// pruneBatch is how many records Prune deletes in one go; tests have it fewer.
	pruneBatch int
	sizes      flight.Group[*graph.Record, measured]

	// Each group may use those after it.
	conversions flight.Group[variantKey, struct{}]
	packs       flight.Group[*graph.Record, struct{}]
	listings    flight.Group[*graph.Record, []string]
	extractions flight.Group[*graph.Record, struct{}]
	pulls       flight.Group[digest.Digest, *transfer]
	origins     flight.Limit[string]
	unpacking   flight.Limit[struct{}]
	packing     flight.Limit[struct{}]
	calls       atomic.Uint64 // numbers what waits for the three above; see ranked
	// differ writes blobs where the configured one is not asked.
	differ *differ.Differ
	work   workLeases
	mounts mountTable
	pool   *mountPool
	// unfinished are deletions that a failing backend interrupted.
	unfinished removals
	holders    *holderTable
	events     slotEvents
	tracer     Tracer // opt.Observer, if it is one
	life       lifecycle

	// bootID tells this run of the machine from others; "" if that is not known.
	bootID string
	marks  marks
}

// NewManager loads the records of the metadata store, repairs what a crash left behind, and
// returns a manager of them. On an error the store is left open, and nothing has been removed
// but, if repairing itself failed, leases of records that were definitively lost.
func NewManager(opt ManagerOpt) (Manager, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	merger, ok := opt.Snapshotter.(snapshot.MergeSnapshotter)
	if !ok {
		guardFirst(&opt)
		merger = snapshot.NewMergeSnapshotterWith(context.Background(), opt.Snapshotter, opt.LeaseManager, snapshot.MergeOptions{Capabilities: opt.Capabilities})
		opt.Snapshotter = merger
	}
	m := &manager{
		opt:          opt,
		merger:       merger,
		store:        opt.MetadataStore,
		resourceType: "snapshots/" + opt.Snapshotter.Name(),
		caps:         capabilitiesOf(&opt),
		g:            graph.New(),
		origins:      flight.Limit[string]{Max: transfersPerOrigin},
		unpacking:    flight.Limit[struct{}]{Max: unpackers},
		packing:      flight.Limit[struct{}]{Max: packers},
		differ:       differ.New(opt.ContentStore),
		pruneBatch:   pruneBatch,
	}
	m.life.init()
	m.bootID = bootIDOf(opt)
	m.tracer, _ = opt.Observer.(Tracer)
	if opt.TrackHolders {
		m.holders = &holderTable{live: map[any]*holderEntry{}}
	}
	id, err := m.store.StoreID()
	if err != nil {
		return nil, errors.Wrap(err, "reading the ID of the metadata store")
	}
	m.storeID = id
	if m.pool, err = openPool(opt.MountPoolRoot); err != nil {
		return nil, err
	}
	if err := m.recover(context.Background()); err != nil {
		return nil, err
	}
	m.pool.clean(context.Background())
	m.store.LaterFrom(m.writeUses)
	return m, nil
}

func (m *manager) IdentityMapping() *user.IdentityMapping {
	return m.opt.Snapshotter.IdentityMapping()
}

func (m *manager) Stats() Stats {
	c := m.g.Counts()
	return Stats{Records: c.Records, Refs: c.Refs, Mounts: m.mounts.len()}
}

func (m *manager) Holders(id string) []Holder {
	if m.holders == nil {
		return nil
	}
	return m.holders.list(id, m.opt.Now())
}

func (m *manager) Close() error {
	if !m.life.close() {
		return nil
	}
	m.sizes.Wait()
	m.conversions.Wait()
	m.packs.Wait()
	m.listings.Wait() // then nobody begins to extract, and so on
	m.extractions.Wait()
	m.pulls.Wait()
	unsynced := errors.Wrap(m.syncLast(), "syncing what was written")
	err := errors.Wrap(m.store.Close(), "closing the metadata store")
	return stderrors.Join(unsynced, err, errors.Wrap(m.pool.close(), "closing the mount pool"))
}

func (m *manager) Search(ctx context.Context, index string, prefix bool) ([]RefMetadata, error) {
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrapf(err, "searching for %q", index)
	}
	defer m.life.end()
	items, err := m.store.Search(ctx, index, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]RefMetadata, 0, len(items))
	for _, it := range items {
		if m.g.Has(it.ID()) {
			out = append(out, &refMetadata{m: m, id: it.ID()})
		}
	}
	return out, nil
}

func (m *manager) Get(ctx context.Context, id string, pg progress.Controller, opts ...RefOption) (ImmutableRef, error) {
	o, err := parseOptions(opts)
	if err != nil {
		return nil, err
	}
	ref, err := m.get(ctx, id, pg, o.handlers, !o.noUpdate)
	if err != nil {
		return nil, err
	}
	return ref, nil
}

// get returns a concrete ref, so that its callers can return an untyped nil (quirk Q01).
func (m *manager) get(ctx context.Context, id string, pg progress.Controller, dhs DescHandlers, triggers bool) (*immutableRef, error) {
	if m.life.isClosed() {
		return nil, errors.Wrapf(ErrClosed, "getting record %q", id)
	}
	start := m.eventStart()
	rec, immID, lazy, verdict := m.g.Ref(id, triggers)
	var err error
	switch verdict {
	case graph.OK:
		if !lazy {
			break
		}
		if err = m.checkLazy(ctx, rec, dhs); err != nil {
			m.settle(ctx, rec, m.g.UndoRef(rec))
		} else if triggers {
			m.g.Trigger(rec)
		}
	case graph.NeedSeal:
		immID, err = m.sealReserved(ctx, rec, dhs, triggers)
	default:
		err = verdictError(verdict)
	}
	if err != nil {
		m.observe(Event{Kind: EventGet, ID: id, Reason: ReasonMiss, Cause: missCause(err), Err: err}, start)
		return nil, errors.Wrapf(err, "getting record %q", id)
	}
	ref := m.newImmutableRef(rec, immID, pg, dhs, triggers)
	if m.opt.Observer != nil { // asked first, since this is where nanoseconds count
		m.observe(Event{Kind: EventGet, ID: ref.id, Reason: ReasonHit, Cause: CauseID}, start)
	}
	return ref, nil
}

// verdictError words what the graph answered.
func verdictError(v graph.Verdict) error {
	switch v {
	case graph.NotFound:
		return errNotFound
	case graph.Locked:
		return ErrLocked
	case graph.Immutable:
		return errors.Wrap(errInvalid, "the record is not mutable")
	case graph.OK, graph.NeedSeal, graph.NeedReopen, graph.Misused:
	}
	return invariant.NoError(errors.Errorf("unexpected verdict %d of the record graph", v))
}

func (m *manager) GetMutable(ctx context.Context, id string, opts ...RefOption) (MutableRef, error) {
	o, err := parseOptions(opts)
	if err != nil {
		return nil, err
	}
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrapf(err, "getting mutable record %q", id)
	}
	defer m.life.end()
	start := m.eventStart()
	rec, verdict := m.g.Writer(id)
	switch verdict {
	case graph.OK:
		if err = m.checkLazy(ctx, rec, o.handlers); err != nil {
			m.g.AbortWriter(rec)
		}
	case graph.NeedReopen:
		err = m.reopenReserved(ctx, rec, o.handlers)
	default:
		err = verdictError(verdict)
	}
	if err != nil {
		m.observe(Event{Kind: EventGet, ID: id, Reason: ReasonMiss, Cause: missCause(err), Err: err}, start)
		return nil, errors.Wrapf(err, "getting mutable record %q", id)
	}
	m.observe(Event{Kind: EventGet, ID: id, Reason: ReasonHit, Cause: CauseID}, start)
	return m.newMutableRef(rec, id, o.handlers), nil
}

// resolveParent takes a link on the record of a parent ref, and returns it with its handlers. The ref
// may be released already if its record is alive (spec MGR-6), and it may be another
// implementation, which is looked up by its ID (spec OPT-3).
func (m *manager) resolveParent(ctx context.Context, parent ImmutableRef, opts refOptions) (*graph.Record, DescHandlers, error) {
	if own, ok := parent.(*immutableRef); ok && own.m == m {
		if !m.g.Link(own.rec, own.id) {
			return nil, nil, errors.Wrapf(errNotFound, "parent %q", own.id)
		}
		return own.rec, own.handlers, nil
	}
	ref, err := m.get(ctx, parent.ID(), nil, opts.handlers, false)
	if err != nil {
		return nil, nil, errors.Wrap(err, "looking up the parent")
	}
	linked := m.g.Link(ref.rec, ref.id)
	if err := ref.Release(ctx); err != nil { // the link is what counts
		log.G(ctx).WithError(err).Warn("layer cache: dropping an internal ref")
	}
	if !linked {
		return nil, nil, errors.Wrapf(errNotFound, "parent %q", ref.id)
	}
	return ref.rec, ref.handlers, nil
}

func (m *manager) New(ctx context.Context, parent ImmutableRef, s session.Group, opts ...RefOption) (MutableRef, error) {
	o, err := parseOptions(opts)
	if err != nil {
		return nil, err
	}
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "making a record")
	}
	defer m.life.end()
	start := m.eventStart()
	var (
		rec *graph.Record
		dhs DescHandlers
	)
	if own, ok := parent.(*immutableRef); ok && own == nil {
		parent = nil
	}
	if parent != nil {
		rec, dhs, err = m.resolveParent(ctx, parent, o)
		if err != nil {
			m.observe(Event{Kind: EventNew, Err: err}, start)
			return nil, errors.Wrap(err, "making a record")
		}
	}
	ref, err := m.newActive(ctx, rec, source{handlers: dhs, session: s}, o)
	if err != nil {
		if rec != nil {
			m.unlink(ctx, rec)
		}
		m.observe(Event{Kind: EventNew, Err: err}, start)
		return nil, err
	}
	m.observe(Event{Kind: EventNew, ID: ref.id}, start)
	return ref, nil
}

// newActive makes a record with a writable snapshot on parent, whose link becomes the new record's.
func (m *manager) newActive(ctx context.Context, parent *graph.Record, src source, o refOptions) (*mutableRef, error) {
	id := newID()
	b := birth{id: id, state: graph.Active, opts: o, writable: true}
	if parent != nil {
		if err := m.finalize(ctx, parent); err != nil {
			return nil, errors.Wrapf(err, "finalizing the parent of record %q", id)
		}
		if err := m.materialize(ctx, parent, src); err != nil {
			return nil, errors.Wrapf(err, "extracting the parent of record %q", id)
		}
		st := m.g.Status(parent)
		b.kind, b.parents, b.parentIDs, b.parentSnapshot = graph.Layer, []*graph.Record{parent}, []string{st.Imm}, st.ImmSnapshot
		b.snapshotOpts = m.caps.WritableOpts() // spec MGR-5
	}
	var rec *graph.Record
	stage := func(ctx context.Context) (err error) {
		rec, err = m.stage(ctx, b)
		return err
	}
	err := m.withRemoteLabels(ctx, parent, src, stage)
	if parent != nil && errdefs.IsNotFound(err) && m.restored(ctx, parent, src) {
		err = m.withRemoteLabels(ctx, parent, src, stage)
	}
	if err != nil {
		return nil, errors.Wrapf(err, "making record %q", id)
	}
	return m.newMutableRef(rec, id, src.handlers), nil
}

// now is the clock's time in Unix nanoseconds, never 0.
func (m *manager) now() int64 {
	if n := m.opt.Now().UnixNano(); n != 0 {
		return n
	}
	return 1
}

func (m *manager) nowText() string {
	return m.opt.Now().UTC().Format(time.RFC3339Nano)
}
