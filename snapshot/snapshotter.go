package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"

	"github.com/layercache/cache/mountable"
)

// Mountable is a tree that can be mounted any number of times. It is an alias, so that executors share
// the type without importing this package.
type Mountable = mountable.Mountable

// Snapshotter keeps layers as snapshots in one key space. An active snapshot is writable and known by
// its key; Commit turns it into a committed one, known by its name, which never changes again and may be
// the parent of others. A view is a read-only active snapshot of a committed one.
//
// Errors carry a category of containerd/errdefs: not found for a key that does not exist, already exists
// for one that is taken, invalid argument for an empty key or a parent that is not committed, failed
// precondition for an operation that the snapshot's kind or its children forbid.
//
// All methods may be called from any number of goroutines.
type Snapshotter interface {
	// Name is the name under which leases list the snapshots ("snapshots/" + Name). It never changes.
	Name() string
	// Mounts returns how to mount the active snapshot or view key.
	Mounts(ctx context.Context, key string) (Mountable, error)
	// Prepare makes the active snapshot key with the content of the committed snapshot parent, "" for none.
	Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error
	// View makes the view key of the committed snapshot parent, "" for an empty tree, and returns how to
	// mount it. It stays until it is removed.
	View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error)

	// Stat describes the snapshot key of any kind.
	Stat(ctx context.Context, key string) (snapshots.Info, error)
	// Update replaces what of info may change (labels), or just the given field paths ("labels.<name>"),
	// and returns the result. The empty value removes a label.
	Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error)
	// Usage is what the snapshot itself occupies, in bytes and inodes, without its parents where those are
	// shared. For an active snapshot it may take time in proportion to the tree.
	Usage(ctx context.Context, key string) (snapshots.Usage, error)
	// Commit turns the active snapshot key into the committed snapshot name; key is free afterwards.
	// The labels that snapshots inherit are taken over from key.
	Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error
	// Remove deletes a snapshot without children. A namespaced snapshotter refuses (permission denied):
	// there a snapshot goes when no lease holds it.
	Remove(ctx context.Context, key string) error
	// Walk calls fn for every snapshot that one of the filters (containerd's syntax) matches, all without
	// filters. An error of fn ends the walk and is returned. fn must not call the snapshotter.
	Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error
	// Close gives back what the snapshotter holds in this process. Closing again does nothing.
	Close() error
	// IdentityMapping is the user namespace the owners in all trees are stored in; nil for none.
	// The caller must not change it.
	IdentityMapping() *user.IdentityMapping
}
