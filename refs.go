package cache

import (
	"context"
	stderrors "errors"
	"sync/atomic"
	"time"

	"github.com/moby/sys/user"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/progress"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/usage"
)

// RefMetadata is what is stored of a record besides its data. All values of one record, refs and
// search results alike, show one state: what is set through one is seen through every other at
// once (spec MV-1). A setter's change is durable when it returns nil (spec MV-4). Getters of a record
// that is no more return zero values; setters return an error that IsNotFound.
type RefMetadata interface {
	// ID is the record's ID, which never changes.
	ID() string

	GetDescription() string
	SetDescription(string) error

	// GetCreatedAt is the zero time if unknown.
	GetCreatedAt() time.Time
	SetCreatedAt(time.Time) error

	// HasCachePolicyDefault and HasCachePolicyRetain tell whether a record that was never
	// finalized stays after its last ref; exactly one of them is true.
	HasCachePolicyDefault() bool
	SetCachePolicyDefault() error
	HasCachePolicyRetain() bool
	SetCachePolicyRetain() error

	// Pinned tells whether the record is kept from being pruned, whatever the policy says. What it lies on stays, too.
	Pinned() bool
	// SetPinned pins the record, or takes that back. A record that was committed and not finalized is pinned if
	// either of its names is.
	SetPinned(bool) error

	// GetLayerType is "windows" for a layer in that layout, else "".
	GetLayerType() string
	SetLayerType(string) error

	// GetRecordType is "" if it was never set.
	GetRecordType() usage.RecordType
	SetRecordType(usage.RecordType) error

	// GetEqualMutable returns the mutable half of a record that was committed and not finalized.
	GetEqualMutable() (RefMetadata, bool)

	// GetString returns the value stored under a key if it is a string, else "".
	GetString(key string) string
	// Get returns the value stored under a key, or nil.
	Get(key string) *metadata.Value
	// SetString stores a value; if index is not empty, Search finds the record by it.
	SetString(key, val, index string) error
	// GetExternal returns a copy of the data stored under a key outside of the row.
	GetExternal(key string) ([]byte, error)
	// SetExternal stores data under a key outside of the row.
	SetExternal(key string, data []byte) error
	// ClearValueAndIndex removes the value under key, and the index that is indexPrefix followed
	// by that value, if it is a string.
	ClearValueAndIndex(key, indexPrefix string) error
}

// Mountable can be mounted.
type Mountable interface {
	// Mount returns how to mount the tree. The mounts are good until the ref is released; a mount that is
	// still there then stays until its own release, but what was to be written to is not mounted anew
	// once its record is finalized or its last ref released: an invalid argument.
	// Mounts of a mutable ref may be bind mounts below ManagerOpt.MountPoolRoot, those of an
	// immutable one are the snapshotter's unless it is mounted for writing at the time.
	Mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error)
}

// Ref is a counted claim on a record: while it is held, neither the record nor what it is made of goes away.
type Ref interface {
	Mountable
	RefMetadata
	// Release ends the claim; a second call does nothing and returns nil. What the end of the
	// last ref asks for (removing a record nobody wanted kept, say) is done before it returns, and
	// its error is returned, though the claim has ended all the same. Of ctx only its end counts, and
	// only while another operation works on the record: then the rest is done in the background,
	// Close waits for it, and the error is that of ctx.
	Release(context.Context) error
	// DescHandler returns the ref's own handler for a blob, or nil.
	DescHandler(digest.Digest) *DescHandler
	// IdentityMapping is the user namespace that owners are stored in; nil for none.
	IdentityMapping() *user.IdentityMapping
}

// ImmutableRef is a ref to a record whose content does not change any more. Methods may be called
// from several goroutines.
type ImmutableRef interface {
	Ref
	// Clone returns another ref to the same record, which does not count as a use. It works on a
	// released ref as long as the record is alive; after that the clone is a released ref.
	// The other methods of a released ref that need the record return an invalid argument; see ManagerOpt.UseAfterRelease.
	Clone() ImmutableRef
	// Finalize makes the snapshot immutable on disk and ends the mutable half: GetMutable will
	// not find it any more. On a record that is finalized it does nothing.
	Finalize(context.Context) error
	// Extract makes sure that the tree is there: blobs of the record and of what it lies on that are not local
	// are fetched through the ref's handlers on behalf of s, and unpacked; each is verified against its
	// digest and the digest of its uncompressed data before anybody sees it. What is there already is left
	// alone; a snapshot that vanished is made again. Concurrent calls share the work, which goes on until all of them
	// have gone. Mount, and New on top, do the same by themselves.
	//
	// Errors are LayerErrors, which name record and blob, around: NeedsRemoteProviderError for a blob that is not local
	// and has no handler; ErrVerification; ErrNotExtracted if there is nothing to extract from; those of the
	// provider and of the backend. A failed call leaves the record as it was, and may be repeated.
	Extract(ctx context.Context, s session.Group) error
	// FileList returns the names in the layer's archive, sorted by bytes, deletions as the archive marks
	// them ("dir/.wh.name"). They are those of this layer alone, not of those it lies on. The blob is fetched if it is not
	// local; the list is kept. A record without a blob has none. Errors are as those of Extract.
	FileList(ctx context.Context, s session.Group) ([]string, error)
	// GetRemotes returns the blobs of the layers that the record consists of, bottom first, and where to read them. There is at least one
	// remote if there is no error, and the caller must not change what he gets but for the descriptors' list.
	//
	// With createIfNeeded a layer without a blob gets one, of the compression in cfg or codec.Default; the record is finalized for that. A
	// layer that has one keeps it, whatever its compression, unless cfg.Compression.Force is set: then the result has none but blobs
	// of the compression asked for, and blobs that are not are converted, which takes them to be local. With all, and without Force, the
	// first remote is followed by those whose topmost blob is of the compression asked for, in all combinations of what the
	// layers below have locally, at most MaxRemotes altogether (spec RMT-1 to RMT-9).
	//
	// Blobs that are not local are left where they are until somebody reads them from the provider, which fetches them on behalf of s
	// through the ref's handlers; it is an Unlazier, too. The provider may be used for as long as the record is held, and, by a caller with a
	// lease in ctx, for as long as that lease lasts: it lists every blob that is local, and by a lease in the context of a read also what that
	// read fetched.
	//
	// Concurrent calls share the work. Errors are LayerErrors around: ErrNoBlobs if a layer has no blob and must not get one; those
	// of the differ, the provider and the backend. NeedsRemoteProviderError lists blobs that are neither local nor have a handler. A level
	// that the compression does not have is an invalid argument.
	GetRemotes(ctx context.Context, createIfNeeded bool, cfg remote.RefConfig, all bool, s session.Group) ([]*remote.Remote, error)
	// LayerChain returns a new ref to every layer that the record consists of, bottom first.
	LayerChain() RefList
}

// MutableRef is the only ref to a record whose snapshot is being written.
type MutableRef interface {
	Ref
	// Commit ends writing and returns a ref to the immutable half. It consumes the mutable ref,
	// whose Release does nothing from then on. A ref that was committed or released cannot be
	// committed: an invalid argument. On an error the ref is as it was.
	Commit(context.Context) (ImmutableRef, error)
}

// RefList is a list of refs that are released together.
type RefList []ImmutableRef

// Release releases every ref of the list, sets those that it released to nil, and joins the errors.
func (l RefList) Release(ctx context.Context) error {
	var errs []error
	for i, r := range l {
		if r == nil {
			continue
		}
		if err := r.Release(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		l[i] = nil
	}
	return stderrors.Join(errs...)
}

// immutableRef is one claim on a record by its immutable name.
type immutableRef struct {
	refMetadata
	rec      *graph.Record
	handlers DescHandlers
	progress progress.Controller
	triggers bool
	released atomic.Bool
}

// newImmutableRef wraps a ref that the graph has counted already.
func (m *manager) newImmutableRef(rec *graph.Record, id string, pg progress.Controller, dhs DescHandlers, triggers bool) *immutableRef {
	r := &immutableRef{
		refMetadata: refMetadata{m: m, id: id},
		rec:         rec, handlers: dhs, progress: pg, triggers: triggers,
	}
	took(m, r, r.id, false)
	return r
}

func (r *immutableRef) DescHandler(d digest.Digest) *DescHandler { return r.handlers[d] }

func (r *immutableRef) IdentityMapping() *user.IdentityMapping { return r.m.IdentityMapping() }

func (r *immutableRef) Clone() ImmutableRef {
	c := &immutableRef{refMetadata: r.refMetadata, rec: r.rec, handlers: r.handlers, progress: r.progress}
	if r.m.g.Clone(r.rec, r.id, false) {
		took(r.m, c, c.id, false)
	} else {
		c.released.Store(true)
	}
	return c
}

func (r *immutableRef) Release(ctx context.Context) error {
	if !r.released.CompareAndSwap(false, true) {
		return nil
	}
	gone(r.m, r)
	o := r.m.g.DropRef(r.rec, r.triggers, r.m.now())
	err := r.m.carryOut(ctx, r.rec, o)
	if o.Last && r.m.opt.Observer != nil {
		r.m.observe(Event{Kind: EventRelease, ID: r.id, Err: err}, time.Time{})
	}
	if err != nil { // asked first, since the arguments alone cost an allocation
		return errors.Wrapf(err, "releasing record %q", r.id)
	}
	return nil
}

// borrow takes an internal ref for the time of an operation, so that a concurrent Release
// cannot end the record under it. One before is an error, or with UseAfterRelease is one once the record is gone.
func (r *immutableRef) borrow() (giveBack func(context.Context), err error) {
	if r.released.Load() && !r.m.opt.UseAfterRelease {
		return nil, errReleased
	}
	giveBack, err = r.m.hold(r.rec, r.id)
	if err != nil && r.released.Load() {
		return nil, errReleased
	}
	return giveBack, err
}

// hold takes a ref that nobody sees, and that is no use, on a record that is alive under the immutable name id.
func (m *manager) hold(rec *graph.Record, id string) (giveBack func(context.Context), err error) {
	if !m.g.Clone(rec, id, false) {
		return nil, errNotFound
	}
	return func(ctx context.Context) { m.settle(ctx, rec, m.g.DropRef(rec, false, m.now())) }, nil
}

func (r *immutableRef) Finalize(ctx context.Context) error {
	if err := r.m.life.begin(); err != nil {
		return errors.Wrapf(err, "finalizing record %q", r.id)
	}
	defer r.m.life.end()
	giveBack, err := r.borrow()
	if err != nil {
		return errors.Wrapf(err, "finalizing record %q", r.id)
	}
	defer giveBack(ctx)
	return r.m.finalize(ctx, r.rec)
}

func (r *immutableRef) LayerChain() RefList {
	layers := graph.Layers(r.rec)
	out := make(RefList, len(layers))
	for i, l := range layers {
		id := r.id // its own, though the record may have been committed anew since
		if l != r.rec {
			id = r.m.g.ImmutableID(l)
		}
		c := &immutableRef{refMetadata: refMetadata{m: r.m, id: id}, rec: l, handlers: r.handlers, progress: r.progress}
		if r.m.g.Clone(l, c.id, false) {
			took(r.m, c, c.id, false)
		} else {
			c.released.Store(true)
		}
		out[i] = c
	}
	return out
}

// mutableRef is the claim on a record by its mutable name. done is guarded by the record's slot.
type mutableRef struct {
	refMetadata
	rec      *graph.Record
	handlers DescHandlers
	done     atomic.Bool // released or committed
	leaving  atomic.Bool // Release was called, though it may have to wait
}

// newMutableRef wraps a claim that the graph has noted already.
func (m *manager) newMutableRef(rec *graph.Record, id string, dhs DescHandlers) *mutableRef {
	r := &mutableRef{refMetadata: refMetadata{m: m, id: id}, rec: rec, handlers: dhs}
	took(m, r, id, true)
	return r
}

func (r *mutableRef) DescHandler(d digest.Digest) *DescHandler { return r.handlers[d] }

func (r *mutableRef) IdentityMapping() *user.IdentityMapping { return r.m.IdentityMapping() }

func (r *mutableRef) Commit(ctx context.Context) (ImmutableRef, error) {
	imm, err := r.commit(ctx)
	if err != nil {
		return nil, errors.Wrapf(err, "committing record %q", r.id)
	}
	return imm, nil
}

func (r *mutableRef) commit(ctx context.Context) (*immutableRef, error) {
	m := r.m
	if err := m.life.begin(); err != nil {
		return nil, err
	}
	defer m.life.end()
	start := m.eventStart()
	leave, err := m.enter(ctx, r.rec)
	if err != nil {
		m.observe(Event{Kind: EventCommit, ID: r.id, Err: err}, start)
		return nil, err
	}
	imm, err := r.commitInSlot()
	leave()
	if err != nil {
		m.observe(Event{Kind: EventCommit, ID: r.id, Err: err}, start)
		return nil, err
	}
	m.observe(Event{Kind: EventCommit, ID: imm.id}, start)
	return imm, nil
}

func (r *mutableRef) commitInSlot() (*immutableRef, error) {
	if r.done.Load() || r.leaving.Load() {
		return nil, errors.Wrap(errInvalid, "the ref was released or committed")
	}
	imm, err := r.m.seal(r.rec, r.id, true)
	if err != nil {
		return nil, err
	}
	r.done.Store(true)
	gone(r.m, r)
	return r.m.newImmutableRef(r.rec, imm.ID, nil, r.handlers, true), nil
}

func (r *mutableRef) Release(ctx context.Context) error {
	if r.done.Load() || !r.leaving.CompareAndSwap(false, true) {
		return nil
	}
	if err := r.m.life.begin(); err == nil { // after Close the claim ends all the same
		defer r.m.life.end()
	}
	err := r.m.inSlotOrLater(ctx, r.rec, r.releaseInSlot)
	return errors.Wrapf(err, "releasing record %q", r.id)
}

// releaseInSlot ends the claim, unless a Commit came first.
func (r *mutableRef) releaseInSlot(ctx context.Context) error {
	if !r.done.CompareAndSwap(false, true) {
		return nil
	}
	m := r.m
	gone(m, r)
	o := m.g.DropWriter(r.rec, m.now())
	err := m.carryOutInSlot(ctx, r.rec, o)
	m.observeLater(r.rec, Event{Kind: EventRelease, ID: r.id, Err: err}, time.Time{})
	return err
}
