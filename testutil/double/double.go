// Package double is a storage backend in memory that behaves like containerd's: leases, snapshots
// and content under one metadata store with garbage collection.
//
// It keeps containerd's two layers apart. Upper-layer entries (leases, snapshot keys, blob digests)
// change in transactions, one at a time, and are undone if the transaction fails. The lower layer
// (the snapshotter's own snapshots, the blobs' bytes) is never undone; what the upper layer does not
// name any more goes at the next garbage collection. So a transaction that fails after a snapshot
// was committed leaves what it leaves in containerd: an active snapshot that exists in name only.
// A differential test holds the package to containerd's own metadata store, call by call.
//
// There are no namespaces: the one of the context is ignored. There are no images, containers or
// sandboxes, and garbage collection knows no conditional references.
//
// The package imports nothing of the cache, so that the tests of every package can use it.
package double

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	digest "github.com/opencontainers/go-digest"
)

// Option is an option of New.
type Option func(*Backend)

// WithName sets the snapshotter's name, under which leases list snapshots. The default is "native".
func WithName(name string) Option { return func(b *Backend) { b.name = name } }

// WithDir gives every snapshot a directory below dir, which must exist: an active snapshot starts as
// a copy of its parent's, and mounts are bind mounts of it. Without a directory, snapshots have no
// content, and their mounts name paths that do not exist.
func WithDir(dir string) Option { return func(b *Backend) { b.dir = dir } }

// WithClock sets the clock that leases expire by; the default is time.Now.
func WithClock(now func() time.Time) Option { return func(b *Backend) { b.now = now } }

// WithJoin has every writing snapshotter call made in a transaction, the one of its context or one of its
// own, so that the transaction always comes before the snapshotter's lock and calls inside and outside
// of Update can be mixed. Without it snapshotter calls inside of Update must not run together with
// garbage collection and calls outside: they deadlock, as with containerd. A transaction that fails removes
// the snapshots that were prepared in it, whose keys could not be prepared again otherwise; one that was
// committed in it is lost all the same. That is what package local makes of containerd.
func WithJoin() Option { return func(b *Backend) { b.join = true } }

// Backend is the backend. All methods, and those of its parts, may be called from any number
// of goroutines.
type Backend struct {
	name string
	dir  string
	now  func() time.Time
	join bool

	// writer is held by the one open transaction and by garbage collection.
	writer sync.Mutex
	// snapLock is held by snapshotter calls that write, and exclusively by the removal of
	// snapshots that are garbage. As in containerd it is taken before writer by a call outside
	// of a transaction and after it by one inside: callers that mix the two deadlock there and here.
	snapLock sync.RWMutex
	// contLock is the same for content.
	contLock sync.RWMutex
	// snapDirty and contDirty say that an entry of a snapshot, and of a blob or an ingest, went since the
	// layer below was last swept of what has no entry: garbage collection looks there only then. They belong
	// to who holds writer, and a transaction that fails does not take them back.
	snapDirty, contDirty bool

	mu struct {
		sync.RWMutex
		leases  map[string]lease
		snaps   map[string]snap
		blobs   map[string]blob
		ingests map[string]ingest
		serial  uint64 // numbers the backend keys of snapshots
	}
	disk disk
}

// The upper layer's entries are values that are replaced, never changed.
type (
	lease struct {
		created   time.Time
		labels    map[string]string
		resources []leases.Resource // sorted by type, then ID
	}
	snap struct {
		backendKey       string
		parent           string
		labels           map[string]string
		created, updated time.Time
	}
	blob struct {
		size             int64
		labels           map[string]string
		created, updated time.Time
	}
	ingest struct {
		backendRef string
		expected   digest.Digest
		expires    time.Time // zero if a lease holds it
	}
)

// New returns an empty backend.
func New(opts ...Option) *Backend {
	b := &Backend{name: "native", now: time.Now}
	for _, opt := range opts {
		opt(b)
	}
	b.mu.leases = map[string]lease{}
	b.mu.snaps = map[string]snap{}
	b.mu.blobs = map[string]blob{}
	b.mu.ingests = map[string]ingest{}
	b.disk.init(b.dir)
	return b
}

// Name returns the snapshotter's name.
func (b *Backend) Name() string { return b.name }

// LeaseManager returns the lease manager. Like containerd's metadata store it ignores the request
// for synchronous deletion: collecting garbage is its caller's job.
func (b *Backend) LeaseManager() leases.Manager { return (*leaseManager)(b) }

// Snapshotter returns the snapshotter. Closing it does nothing.
func (b *Backend) Snapshotter() snapshots.Snapshotter { return (*snapshotter)(b) }

// ContentStore returns the content store.
func (b *Backend) ContentStore() content.Store { return (*contentStore)(b) }

// LoseSnapshot makes a snapshot disappear together with its content, whatever depends on it or
// leases it, as somebody does who tampers with the backend. Losing an unknown one does nothing.
func (b *Backend) LoseSnapshot(key string) error {
	var lost string
	err := b.update(context.Background(), func(tx *tx) error {
		s, ok := tx.snaps.get(key)
		if ok {
			lost = s.backendKey
			tx.snaps.del(key)
		}
		return nil
	})
	if err != nil || lost == "" {
		return err
	}
	return b.disk.drop(lost)
}

// LoseBlob makes a blob disappear in the same way.
func (b *Backend) LoseBlob(dgst digest.Digest) error {
	return b.update(context.Background(), func(tx *tx) error {
		tx.blobs.del(dgst.String())
		b.disk.dropBlob(dgst)
		return nil
	})
}

// SetUsage sets what Usage reports of a snapshot, in place of measuring it.
func (b *Backend) SetUsage(ctx context.Context, key string, usage snapshots.Usage) error {
	return b.view(ctx, func(tx *tx) error {
		s, ok := tx.snaps.get(key)
		if !ok {
			return notFound("snapshot", key)
		}
		return b.disk.setUsage(s.backendKey, usage)
	})
}
