package cache

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/gc"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/progress"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/usage"
)

// SpaceReserve is space on the disk of the databases that is kept back: to delete anything, books have to be written first. Prune
// releases it when the disk is full, goes on, and keeps it again at its end. Where that was not enough it collects garbage and goes on once
// more, as long as it gets anywhere.
type SpaceReserve interface {
	// Release gives the space free; it is no error if that was done before.
	Release() error
	// Keep occupies the space, if it is not.
	Keep() error
	// Kept tells what is occupied right now, which may be nothing, and gives it a name for people, such as a path.
	Kept() (name string, bytes int64, err error)
}

// ManagerOpt is what a manager is built from. Snapshotter, ContentStore, LeaseManager and
// MetadataStore are required; NewManager reports a missing one as an invalid argument.
// local.Open fills it for an embedded cache. Use keyed literals: fields are added over time.
type ManagerOpt struct {
	// Snapshotter holds the layers' trees. The manager uses it but does not close it. Trees of merges are made by
	// snapshot.NewMergeSnapshotter on it, unless it is a snapshot.MergeSnapshotter itself, such as one that reports how.
	Snapshotter snapshot.Snapshotter
	// Capabilities replace what is known of the snapshotter's name (snapshot.CapabilitiesOf): for one whose directories this process
	// cannot reach, say. Nil means what is known.
	Capabilities *snapshot.Capabilities
	// ContentStore holds the layers' blobs.
	ContentStore content.Store
	// LeaseManager protects both from the backend's garbage collection. If it has a method
	// WalkLeases as snapshot/containerd.LeaseManager does, a start calls that instead of List.
	LeaseManager leases.Manager
	// PruneRefChecker, if set, makes the checker that says which records something outside of
	// the cache still refers to. It is made anew for every DiskUsage and every Prune.
	PruneRefChecker ExternalRefCheckerFunc
	// PruneScorer, if set, says which records go first where a policy names an amount of space; nil means those little used, and long
	// ago, as the specification has it (PRN-12).
	PruneScorer usage.Scorer
	// GarbageCollect, if set, lets the backend remove what no lease protects any more.
	GarbageCollect func(context.Context) (gc.Stats, error)
	// Reserve, if set, is space for Prune on a disk that is full.
	Reserve SpaceReserve
	// Applier unpacks layer blobs.
	Applier diff.Applier
	// Differ packs layer blobs where the library does not do so itself: it does where it can read an overlay's upper directory, and for
	// compressions that a differ need not know (spec BLOB-5). Nil means the library's own for everything but
	// Windows layers, which then cannot be packed.
	Differ diff.Comparer
	// MetadataStore holds the records' rows. Close closes it.
	MetadataStore *metadata.Store
	// Root is the directory whose filesystem is measured for free space.
	Root string
	// Databases are the paths of the files in which the cache and its backend keep their books, for Overhead to list. One that does not
	// exist is left out.
	Databases []string
	// MountPoolRoot is the directory for shared mounts of writable overlays; empty means the
	// system's directory for temporary files. NewManager makes it, mode 0700, and takes out of it
	// what a dead process left: it unmounts what is mounted on the directories in it, and removes those that
	// are empty. So it must be for nothing else. Mounts of other live managers are spared; those
	// of a live BuildKit are not.
	MountPoolRoot string

	// Hooks lets an embedder put its own transfer, layer mode and tracing in. The zero value
	// stands for the library's own behaviour.
	Hooks Hooks
	// Transactions, if set, lets several calls to the backend share one of its transactions.
	// Nil means separate calls, as with a containerd in another process.
	Transactions *Transactions
	// Observer, if set, is told what happens. It is called with no lock held and must not block for long. Package observe has one that
	// counts, and the module github.com/layercache/cache/otel one that feeds OpenTelemetry.
	Observer Observer
	// Sync has Finalize flush a layer's tree to disk, by SyncFS, before it is stored that the layer is
	// final. Without it that happens some time later; see SyncFS.
	Sync bool
	// SyncFS flushes to disk what the snapshotter's filesystem has in memory, all that was written before the
	// call. With it, a layer that was written and not flushed when the machine went down is not served
	// afterwards: it is dropped, or extracted anew where that can be done. Up to then layers are flushed in
	// the background and by Close, several at a time. It is called with no lock held that an operation on another
	// record waits for. An error means that none of it counts as flushed, and leads to another try; one of category
	// errdefs.ErrDataLoss, that bytes written before may be lost for good, and no later try counts for them.
	// Nil: nothing is known of what reached the disk, and what the machine lost is served as it is.
	SyncFS func(ctx context.Context) error
	// BootID names this run of the machine, from its start to its end or crash; it differs from that of every other
	// run. Empty means the system's own. Where there is none (Windows), nothing is dropped after a crash of the machine.
	BootID string
	// TrackHolders remembers where each live ref was taken, for Manager.Holders, and has refs that are garbage-collected without a Release
	// reported as EventLeak and in the log, each once. Such a ref is not released: what it held stays held until the manager is closed, as it
	// would without this option. It costs a stack walk per ref and is meant for debugging.
	TrackHolders bool
	// UseAfterRelease has immutable refs that were released do what they did, as long as their record is there, and one whose record went with its last
	// ref be mounted for reading until the snapshot is collected. BuildKit's own cache lets its callers do so; an embedder that takes
	// its place sets it. Without it that is an invalid argument from the release on, rather than once somebody has pruned. Clone, and
	// the methods that take a ref as parent or input, take a released one either way (spec REF-1, MGR-6).
	UseAfterRelease bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// AfterFunc has fn called, on a goroutine of its own, when d has passed; stop prevents that and reports whether it
	// could. Nil means time.AfterFunc.
	AfterFunc func(d time.Duration, fn func()) (stop func() bool)
}

// Hooks are the places where an embedder may replace what the library does itself.
type Hooks struct {
	// FetchBlob copies the blob of desc from the provider into the content store. ref is the
	// handler's origin, by which concurrent downloads of the same blob exclude each other.
	FetchBlob func(ctx context.Context, cs content.Store, provider content.Provider, desc ocispecs.Descriptor, ref string) error
	// LayerContext returns the context in which a layer of the given type ("windows" or "") is
	// unpacked or packed.
	LayerContext func(ctx context.Context, layerType string) context.Context
	// CommitDevice makes one file of the block device that holds a layer of overlaybd's, and returns its path. The
	// library's own way is to run overlaybd's program for it.
	CommitDevice func(ctx context.Context, device string) (file string, err error)
	// StartSpan opens a tracing span and returns the function that ends it.
	StartSpan func(ctx context.Context, name string, desc ocispecs.Descriptor) (context.Context, func())
}

// Transactions says how calls to the lease manager and the snapshotter can share one
// transaction of the backend, so that a transition costs one write to disk instead of several.
type Transactions struct {
	// Update runs fn in one transaction, which travels in the context that fn gets, and commits
	// it if fn returns nil. The lease manager of the options must take part in it. Callers may share a transaction, in
	// which one's fn sees what another's did. fn may be run again once all that it did has been taken back, the
	// snapshotter's work included; what cannot be taken back must not be run again. It does nothing but call the backend, and waits for no other caller.
	Update func(ctx context.Context, fn func(ctx context.Context) error) error
	// Snapshots tells whether the snapshotter's writes may join, too. Set it only if every
	// writing call of the snapshotter is quick, and if all its writers, garbage collection
	// aside, take the transaction before the snapshotter's own lock: mixed orders deadlock. A
	// snapshot whose creation failed with its transaction must not be in the way of another of
	// the same key, as it is with containerd's metadata store alone, which takes back the number
	// that told the two apart; package local removes it.
	Snapshots bool
}

// ExternalRefCheckerFunc makes a checker for one DiskUsage or Prune.
type ExternalRefCheckerFunc func() (ExternalRefChecker, error)

// ExternalRefChecker tells what is referred to from outside of the cache.
type ExternalRefChecker interface {
	// Exists reports whether something outside, an image for instance, consists of exactly the
	// given layer blobs, bottom first. id names the record.
	Exists(id string, blobs []digest.Digest) bool
}

// capabilitiesOf is what a manager takes its snapshotter to be capable of.
func capabilitiesOf(opt *ManagerOpt) snapshot.Capabilities {
	if opt.Capabilities != nil {
		return *opt.Capabilities
	}
	return snapshot.CapabilitiesOf(opt.Snapshotter.Name())
}

func (opt *ManagerOpt) validate() error {
	missing := func(name string) error {
		return errors.Wrapf(errInvalid, "manager option %s is required", name)
	}
	switch {
	case opt.Snapshotter == nil:
		return missing("Snapshotter")
	case opt.ContentStore == nil:
		return missing("ContentStore")
	case opt.LeaseManager == nil:
		return missing("LeaseManager")
	case opt.MetadataStore == nil:
		return missing("MetadataStore")
	case opt.Transactions != nil && opt.Transactions.Update == nil:
		return missing("Transactions.Update")
	case opt.Sync && opt.SyncFS == nil:
		return missing("SyncFS for Sync")
	}
	if opt.AfterFunc == nil {
		opt.AfterFunc = func(d time.Duration, fn func()) func() bool { return time.AfterFunc(d, fn).Stop }
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return nil
}

// RefOption is an option of the calls that return a ref. The set is closed: values come from
// this package's functions, constants and types, so that an option nobody understands does not
// compile. Which call honours which option is written at each option.
type RefOption interface{ refOption() }

// DescHandler says how to get a layer blob that is not local.
type DescHandler struct {
	// Provider returns where to read the blob from, on behalf of a session.
	Provider func(session.Group) content.Provider
	// Progress, if set, shows the transfer.
	Progress progress.Controller
	// SnapshotLabels are passed on to snapshotters that can mount the layer from afar.
	SnapshotLabels map[string]string
	// Annotations are those of the descriptor the blob was found under.
	Annotations map[string]string
	// Ref names the origin; downloads of one blob from one origin exclude each other.
	Ref string
}

// DescHandlers maps blob digests to their handlers. As an option it is honoured by Get,
// GetMutable and GetByBlob, and by New for a parent that has to be looked up first; if several are
// given, the first wins (spec OPT-1).
type DescHandlers map[digest.Digest]*DescHandler

func (DescHandlers) refOption() {}

// DescHandlerKey is a key under which embedders keep a handler in maps of their own.
type DescHandlerKey digest.Digest

type constOption int

// Options without a value.
const (
	// CachePolicyDefault lets a record that was never finalized go with its last ref. New records only.
	CachePolicyDefault constOption = iota
	// CachePolicyRetain keeps a record that was never finalized after its last ref. New records only.
	CachePolicyRetain
	// NoUpdateLastUsed makes a ref that does not count as a use. Get and GetByBlob.
	NoUpdateLastUsed
)

func (constOption) refOption() {}

type (
	descriptionOption  string
	recordTypeOption   usage.RecordType
	creationTimeOption time.Time
	imageRefOption     string
	unlazyOption       struct{ group session.Group }
)

func (descriptionOption) refOption()  {}
func (recordTypeOption) refOption()   {}
func (creationTimeOption) refOption() {}
func (imageRefOption) refOption()     {}
func (unlazyOption) refOption()       {}

// WithDescription sets the description of a new record.
func WithDescription(text string) RefOption { return descriptionOption(text) }

// WithRecordType sets the type of a new record.
func WithRecordType(t usage.RecordType) RefOption { return recordTypeOption(t) }

// WithCreationTime sets the creation time of a new record in place of the current time (spec OPT-5).
func WithCreationTime(t time.Time) RefOption { return creationTimeOption(t) }

// WithImageRef adds the name of an image that the layer belongs to: to new records, and by
// GetByBlob to reused ones as well.
func WithImageRef(ref string) RefOption { return imageRefOption(ref) }

// Unlazy makes GetByBlob return a layer that is pulled and extracted, on behalf of the session;
// the first one given wins.
func Unlazy(s session.Group) RefOption { return unlazyOption{group: s} }

// refOptions is a list of options sorted out.
type refOptions struct {
	description  *string
	recordType   *usage.RecordType
	createdAt    *int64 // Unix nanoseconds
	retain       *bool
	imageRefs    []string
	handlers     DescHandlers
	noUpdate     bool
	unlazy       session.Group
	unlazyWanted bool
}

// parseOptions sorts opts out. A nil option is an error, since an option the caller believes in
// must not get lost. Of With* values the last wins, of handlers and sessions the first (OPT-1).
func parseOptions(opts []RefOption) (refOptions, error) {
	var o refOptions
	for i, opt := range opts {
		switch v := opt.(type) {
		case nil:
			return o, errors.Wrapf(errInvalid, "ref option %d is nil", i)
		case DescHandlers:
			if o.handlers == nil {
				o.handlers = v
			}
		case constOption:
			switch v {
			case CachePolicyDefault, CachePolicyRetain:
				retain := v == CachePolicyRetain
				o.retain = &retain
			case NoUpdateLastUsed:
				o.noUpdate = true
			default:
				return o, errors.Wrapf(errInvalid, "ref option %d has the unknown value %d", i, int(v))
			}
		case descriptionOption:
			text := storable(string(v))
			o.description = &text
		case recordTypeOption:
			t := usage.RecordType(storable(string(v)))
			o.recordType = &t
		case creationTimeOption:
			n, err := nanoseconds(time.Time(v))
			if err != nil {
				return o, err
			}
			o.createdAt = &n
		case imageRefOption:
			o.imageRefs = append(o.imageRefs, storable(string(v)))
		case unlazyOption:
			if !o.unlazyWanted {
				o.unlazy, o.unlazyWanted = v.group, true
			}
		default: // a type that embeds the interface gets past the compiler
			return o, errors.Wrapf(errInvalid, "ref option %d has the foreign type %T", i, opt)
		}
	}
	return o, nil
}
