package local

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// guard is the snapshotter below containerd's metadata where its writes share transactions. Its
// own database knows nothing of those, so three things can go wrong that cannot with separate
// calls, and that it sees to (docs/adr/0012):
//
//   - Garbage collection reads the metadata as it is before a transaction commits and would
//     remove from the snapshotter what the transaction made.
//   - A transaction that fails leaves behind what it made, under names that containerd will use again.
//   - A transaction that fails after a Commit has lost the snapshot: the metadata know its key,
//     the snapshotter only its new name.
type guard struct {
	snapshots.Snapshotter
	// reverser takes Commits back; nil if the snapshotter cannot.
	reverser reverser

	name string
	raw  *bolt.DB
	tx   *transactor

	mu struct {
		sync.Mutex
		pending map[string]struct{} // made by the transaction that has not ended yet
	}
	// untidy is set while the snapshotter may hold what nobody refers to: at first, for the sake
	// of a process that died, and when a transaction failed.
	untidy atomic.Bool
}

// reverser is a snapshotter that can take a Commit back.
type reverser interface {
	uncommit(ctx context.Context, name, key string) error
}

// labelFrom, on a committed snapshot in the snapshotter, holds the key it had before. containerd
// never shows it: Stat below removes it.
const labelFrom = "github.com/layercache/cache.committed-from"

// labelRebased, beside labelFrom, says that the snapshot got its parent from the Commit. containerd never shows it either.
const labelRebased = "github.com/layercache/cache.rebased"

func newGuard(name string, s snapshots.Snapshotter, raw *bolt.DB) *guard {
	g := &guard{Snapshotter: s, name: name, raw: raw}
	g.mu.pending = map[string]struct{}{}
	g.untidy.Store(true)
	return g
}

// making notes that the transaction of ctx is about to make name. undo is run if the transaction
// fails, whether or not the making worked.
func (g *guard) making(ctx context.Context, name string, undo func(context.Context) error) {
	l := undoOf(ctx)
	if l == nil {
		return
	}
	g.mu.Lock()
	g.mu.pending[name] = struct{}{}
	g.mu.Unlock()
	l.undo = append(l.undo, func(ctx context.Context) error {
		g.untidy.Store(true)
		return undo(ctx)
	})
	l.end = append(l.end, func() {
		g.mu.Lock()
		delete(g.mu.pending, name)
		g.mu.Unlock()
	})
}

func (g *guard) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return g.create(ctx, key, func() ([]mount.Mount, error) {
		return g.Snapshotter.Prepare(ctx, key, parent, opts...)
	})
}

func (g *guard) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return g.create(ctx, key, func() ([]mount.Mount, error) {
		return g.Snapshotter.View(ctx, key, parent, opts...)
	})
}

func (g *guard) create(ctx context.Context, key string, fn func() ([]mount.Mount, error)) ([]mount.Mount, error) {
	made := false
	g.making(ctx, key, func(ctx context.Context) error {
		if !made { // what is there under this key is somebody else's
			return nil
		}
		return g.Snapshotter.Remove(ctx, key)
	})
	mounts, err := fn()
	if errdefs.IsAlreadyExists(err) {
		if cleared, cerr := g.clearOrphan(ctx, key); cerr != nil {
			return nil, errors.Wrapf(err, "removing what is in the way: %v", cerr)
		} else if cleared {
			mounts, err = fn()
		}
	}
	made = err == nil
	return mounts, err
}

// clearOrphan removes what a process left under key that died before its transaction ended. The number
// in its name was taken back with the transaction, so that containerd chooses the same name again.
func (g *guard) clearOrphan(ctx context.Context, key string) (cleared bool, err error) {
	tx, ok := boltutil.Transaction(ctx)
	if !ok || tx.DB() != g.raw {
		return false, nil
	}
	info, err := g.Snapshotter.Stat(ctx, key)
	if err != nil {
		return false, err
	}
	if g.referenced(tx, key) || g.referenced(tx, info.Labels[labelFrom]) {
		return false, nil
	}
	return true, g.Snapshotter.Remove(ctx, key)
}

func (g *guard) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	reversible := g.reverser != nil
	if reversible {
		rebased, err := g.rebases(ctx, key, opts)
		if err != nil {
			return err
		}
		opts = append(opts[:len(opts):len(opts)], func(info *snapshots.Info) error {
			if info.Labels == nil {
				info.Labels = map[string]string{}
			}
			info.Labels[labelFrom] = key
			if rebased {
				info.Labels[labelRebased] = "true"
			}
			return nil
		})
	}
	done := false
	g.making(ctx, name, func(ctx context.Context) error {
		if !done || !reversible {
			return nil
		}
		return g.reverser.uncommit(ctx, name, key)
	})
	if l := undoOf(ctx); l != nil && !reversible {
		l.final = true
	}
	err := g.healed(ctx, key, func() error { return g.Snapshotter.Commit(ctx, name, key, opts...) })
	done = err == nil
	return err
}

// rebases tells whether a Commit of key with the options gives it a parent (snapshots.WithParent), which it has not got as
// an active snapshot and must not have once the Commit is taken back.
func (g *guard) rebases(ctx context.Context, key string, opts []snapshots.Opt) (bool, error) {
	var wish snapshots.Info
	for _, opt := range opts {
		if err := opt(&wish); err != nil {
			return false, err
		}
	}
	if wish.Parent == "" {
		return false, nil
	}
	info, err := g.Stat(ctx, key)
	return err == nil && info.Parent == "", err
}

func (g *guard) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = g.healed(ctx, key, func() (err error) {
		info, err = g.Snapshotter.Stat(ctx, key)
		return err
	})
	delete(info.Labels, labelFrom)
	delete(info.Labels, labelRebased)
	return info, err
}

func (g *guard) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	err = g.healed(ctx, key, func() (err error) {
		mounts, err = g.Snapshotter.Mounts(ctx, key)
		return err
	})
	return mounts, err
}

func (g *guard) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	err = g.healed(ctx, key, func() (err error) {
		usage, err = g.Snapshotter.Usage(ctx, key)
		return err
	})
	return usage, err
}

// Remove is called by containerd inside of a transaction to clear up after a call that failed,
// and by its garbage collection, which is refused what is in use after all. What another collection
// has removed meanwhile is gone as was asked; an error would end the collection there and then.
func (g *guard) Remove(ctx context.Context, name string) error {
	if undoOf(ctx) != nil {
		return g.Snapshotter.Remove(ctx, name)
	}
	inUse, err := g.inUse(ctx, name)
	if err == nil && inUse {
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "snapshot %q is in use", name)
	}
	if err == nil {
		err = g.Snapshotter.Remove(ctx, name)
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// inUse tells whether name belongs to a transaction that is under way, is known to the metadata,
// or is what heal would restore something from. containerd does not make it anew meanwhile if
// the caller holds its lock or has the turn to write.
func (g *guard) inUse(ctx context.Context, name string) (inUse bool, err error) {
	g.mu.Lock()
	_, inUse = g.mu.pending[name]
	g.mu.Unlock()
	if inUse {
		return true, nil
	}
	info, err := g.Snapshotter.Stat(ctx, name)
	if err != nil {
		return false, err
	}
	// Only now, since a transaction is visible once its names are not pending any more.
	err = g.raw.View(func(tx *bolt.Tx) error {
		inUse = g.referenced(tx, name) || g.referenced(tx, info.Labels[labelFrom])
		return nil
	})
	return inUse, errors.WithStack(err)
}

// tidy removes what nobody refers to, which containerd's own collection does only when it has
// removed something else.
func (g *guard) tidy(ctx context.Context) error {
	for again := true; again; { // a parent goes after its children
		again = false
		var names []string
		if err := g.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		}); errdefs.IsNotFound(err) {
			return nil // overlayfs says so as long as it never had a snapshot
		} else if err != nil {
			return errors.Wrap(err, "list snapshots")
		}
		for _, name := range names {
			removed, err := g.removeUnused(ctx, name)
			if err != nil {
				return errors.Wrapf(err, "remove unused snapshot %q", name)
			}
			again = again || removed
		}
	}
	if err := g.Cleanup(ctx); err != nil && !errdefs.IsNotImplemented(err) {
		return errors.Wrap(err, "remove data of unused snapshots")
	}
	return nil
}

func (g *guard) removeUnused(ctx context.Context, name string) (bool, error) {
	leave, err := g.tx.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	err = g.Remove(ctx, name)
	if errdefs.IsFailedPrecondition(err) { // in use, has children
		return false, nil
	}
	return err == nil, err
}

// Cleanup passes on the asynchronous removal that containerd looks for at the snapshotter.
func (g *guard) Cleanup(ctx context.Context) error {
	if c, ok := g.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return errdefs.ErrNotImplemented
}

// healed runs fn, which needs key, and if there is no such key, takes back the commit that did
// away with it and tries again.
func (g *guard) healed(ctx context.Context, key string, fn func() error) error {
	err := fn()
	if !errdefs.IsNotFound(err) {
		return err
	}
	if healed, herr := g.heal(ctx, key); herr != nil {
		return errors.Wrapf(err, "recovering it: %v", herr)
	} else if !healed {
		return err
	}
	return fn()
}

// heal looks for a snapshot that was committed from key, while the metadata still know it by key
// since their transaction failed, the process having died in between for instance.
func (g *guard) heal(ctx context.Context, key string) (healed bool, err error) {
	if g.reverser == nil {
		return false, nil
	}
	find := func(tx *bolt.Tx) error {
		if !g.referenced(tx, key) {
			return nil
		}
		name, err := g.committedFrom(ctx, key)
		if err != nil || name == "" || g.referenced(tx, name) {
			return err
		}
		healed = true
		return g.reverser.uncommit(ctx, name, key)
	}
	joined, err := g.tx.joined(ctx)
	if err != nil {
		// ctx is in a read transaction. Waiting for a writer in there could deadlock.
		return false, nil
	}
	if joined {
		tx, _ := boltutil.Transaction(ctx)
		return healed, find(tx)
	}
	// The commit may be that of a transaction that is still under way: wait for its end.
	leave, err := g.tx.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	err = g.raw.View(find)
	return healed && err == nil, err
}

func (g *guard) committedFrom(ctx context.Context, key string) (name string, err error) {
	err = g.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted && info.Labels[labelFrom] == key {
			name = info.Name
		}
		return nil
	})
	return name, err
}

// referenced tells whether containerd's metadata have a snapshot that is stored under name, which
// is "<namespace>/<number>/<key>".
func (g *guard) referenced(tx *bolt.Tx, name string) bool {
	parts := strings.SplitN(name, "/", 3)
	if len(parts) != 3 {
		return false
	}
	b := tx.Bucket([]byte(backendTopLevel))
	for _, key := range []string{parts[0], "snapshots", g.name, parts[2]} {
		if b == nil {
			return false
		}
		b = b.Bucket([]byte(key))
	}
	return b != nil && string(b.Get([]byte("name"))) == name
}
