package local

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
	ctdsnapshot "github.com/layercache/cache/snapshot/containerd"
	"github.com/layercache/cache/snapshot/winlayers"
)

// Parts is an open directory: everything a manager is made from. The fields must not be changed;
// whoever wants something in between changes what ManagerOpt returns.
type Parts struct {
	// Dir is the directory's absolute path.
	Dir string
	// MountPoolRoot is where writable overlays are mounted for sharing.
	MountPoolRoot string
	// SnapshotterName is [Overlayfs], [Native] or the name given in the options, and
	// SnapshotterReason says in a few words why it was chosen.
	SnapshotterName, SnapshotterReason string

	// Snapshotter, ContentStore and LeaseManager work in the namespace of the directory.
	Snapshotter  snapshot.Snapshotter
	ContentStore content.Store
	LeaseManager leases.Manager
	// MetadataStore holds the records. Closing it early, as a manager does, is fine.
	MetadataStore *metadata.Store
	// Salvaged tells what was saved of a damaged database of records, nil if it was sound. The layers
	// of the records that were not are given up: garbage collection takes them.
	Salvaged *metadata.SalvageReport
	// Applier unpacks layers. Where the snapshotter's mounts are plain directories, as native's are, that
	// takes no privilege.
	Applier snapshot.DetachedApplier
	// Differ packs layers. On Linux it reads directories and overlays where they lie, which for directories takes no privilege.
	// Elsewhere it mounts what it works on, and is nil in a process that may not mount.
	//
	// Both know layers of Windows by their context (package snapshot/winlayers), and ManagerOpt has the hook that sets it.
	Differ diff.Comparer
	// Transactions lets lease and snapshotter calls share transactions.
	Transactions *cache.Transactions

	opts    Options
	reserve *reserve
	db      *ctdmetadata.DB
	raw     *bolt.DB
	tx      *transactor
	leases  *orderedLeases
	guard   *guard   // nil unless snapshotter writes join transactions
	reading *reading // nil unless the directory is only looked at
	running running
	syncFS  func(context.Context) error // nil where nothing can be flushed
	// closers are run in reverse by Close.
	closers []func() error
	once    sync.Once
	err     error
}

// OpenParts opens a directory, which is made if it does not exist, without a manager. See Open
// for the errors.
func OpenParts(ctx context.Context, dir string, opts Options) (_ *Parts, err error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, invalid("cache directory is empty")
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.WithStack(err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	p := &Parts{Dir: dir, MountPoolRoot: filepath.Join(dir, mountPoolDir), opts: opts, reserve: newReserve(dir, opts.Reserve)}
	defer func() {
		if err != nil {
			err = typed(stderrors.Join(err, p.Close()))
		}
	}()
	sn, err := p.prepare()
	if err != nil {
		return nil, errors.Wrapf(err, "open cache directory %s", dir)
	}
	if err := p.openBackend(ctx, sn); err != nil {
		return nil, errors.Wrapf(err, "open cache directory %s", dir)
	}
	p.keepReserve()
	return p, nil
}

// prepare takes the directory, looks whether it can be opened as asked, and opens the records.
// All that may refuse a directory happens before the first write to it.
func (p *Parts) prepare() (backend, error) {
	if p.opts.MustExist {
		if err := exists(p.Dir); err != nil {
			return backend{}, err
		}
	}
	if err := os.MkdirAll(p.Dir, dirMode); err != nil {
		return backend{}, errors.WithStack(err)
	}
	lock, err := lockDir(p.Dir)
	if err != nil {
		return backend{}, err
	}
	p.closers = append(p.closers, lock.Close)

	found, err := surveyDir(p.Dir)
	if err != nil {
		return backend{}, err
	}
	name, err := match(found, p.opts)
	if err != nil {
		return backend{}, err
	}
	// The store checks for what it cannot open, version-1 metadata among it, before it writes.
	var opts []metadata.Option
	if p.opts.NoSalvage {
		opts = append(opts, metadata.WithoutSalvage())
	}
	p.MetadataStore, err = metadata.NewStore(filepath.Join(p.Dir, recordsDB), opts...)
	if err != nil {
		return backend{}, err
	}
	p.closers = append(p.closers, p.MetadataStore.Close)
	p.Salvaged = p.MetadataStore.Salvaged()
	return choose(p.Dir, name, found, p.opts)
}

// openBackend opens containerd's parts.
func (p *Parts) openBackend(ctx context.Context, sn backend) error {
	if err := makeDirs(p.Dir); err != nil {
		return err
	}
	raw, err := openBackendDB(filepath.Join(p.Dir, backendDB))
	if err != nil {
		return err
	}
	p.raw = raw
	p.closers = append(p.closers, raw.Close)

	blobs, err := contentlocal.NewStore(filepath.Join(p.Dir, contentDir))
	if err != nil {
		return errors.Wrap(err, "open content store")
	}
	if sn.numbered {
		if err := clearHalfMade(ctx, filepath.Join(p.Dir, snapshotsDir)); err != nil {
			return err
		}
	}
	trees, err := sn.open(filepath.Join(p.Dir, snapshotsDir))
	if err != nil {
		return errors.Wrapf(err, "open snapshotter %s", sn.name)
	}
	if trees == nil {
		return invalid("option NewSnapshotter made none")
	}
	made := trees
	if wrap := p.opts.WrapSnapshotter; wrap != nil {
		if trees = wrap(made); trees == nil {
			return stderrors.Join(invalid("option WrapSnapshotter made none"), made.Close())
		}
	}
	p.closers = append(p.closers, trees.Close)
	if sn.quick {
		p.guard = newGuard(sn.name, trees, raw)
		p.guard.reverser, _ = made.(reverser)
		trees = p.guard
	}
	if err := p.wire(ctx, sn, blobs, trees); err != nil {
		return err
	}
	return p.openSync()
}

// wire puts containerd's metadata over blobs and trees, and the wrappers around them.
func (p *Parts) wire(ctx context.Context, sn backend, blobs content.Store, trees snapshots.Snapshotter) error {
	p.db = ctdmetadata.NewDB(p.raw, blobs, map[string]snapshots.Snapshotter{sn.name: trees})
	if err := p.db.Init(ctx); err != nil {
		return errors.Wrapf(err, "prepare %s", backendDB)
	}
	tx := newTransactor(p.db, p.raw)
	p.tx = tx
	if p.guard != nil {
		p.guard.tx = tx
	}
	p.Transactions = &cache.Transactions{Update: tx.update, Snapshots: sn.quick}
	ordered := &orderedSnapshotter{Snapshotter: p.db.Snapshotter(sn.name), tx: tx, join: sn.quick}
	p.Snapshotter = ctdsnapshot.NewSnapshotter(sn.name, ordered, namespace, p.opts.IdentityMapping)
	p.SnapshotterName, p.SnapshotterReason = sn.name, sn.reason
	p.ContentStore = ctdsnapshot.NewContentStore(&orderedContent{Store: p.db.ContentStore(), tx: tx}, namespace)
	p.leases = &orderedLeases{Manager: ctdmetadata.NewLeaseManager(p.db), tx: tx}
	p.LeaseManager = ctdsnapshot.NewLeaseManager(p.leases, namespace)
	var applyOpts []apply.Option
	if p.opts.SquashOwners {
		applyOpts = append(applyOpts, apply.SquashOwners())
	}
	applier := apply.New(p.ContentStore, applyOpts...)
	var ok bool
	if p.Applier, ok = winlayers.NewApplier(p.ContentStore, applier, applyOpts...).(snapshot.DetachedApplier); !ok {
		return errors.New("the applier cannot unpack by itself any more")
	}
	if d := newDiffer(p.ContentStore); d != nil {
		p.Differ = winlayers.NewComparer(p.ContentStore, d)
	}
	return nil
}

// ManagerOpt returns the options of a manager on these parts. It may be changed before use.
func (p *Parts) ManagerOpt() cache.ManagerOpt {
	hooks := p.opts.Hooks
	if hooks.LayerContext == nil {
		hooks.LayerContext = winlayers.LayerContext
	}
	return cache.ManagerOpt{
		Snapshotter:     p.Snapshotter,
		ContentStore:    p.ContentStore,
		LeaseManager:    p.LeaseManager,
		PruneRefChecker: p.opts.PruneRefChecker,
		GarbageCollect:  p.GarbageCollect,
		Reserve:         p.reserve,
		Applier:         p.Applier,
		Differ:          p.Differ,
		MetadataStore:   p.MetadataStore,
		Root:            p.Dir,
		Databases:       databases(p.Dir),
		MountPoolRoot:   p.MountPoolRoot,
		Hooks:           hooks,
		Transactions:    p.Transactions,
		Sync:            p.opts.Sync,
		SyncFS:          p.syncFS,
		Observer:        p.opts.Observer,
		TrackHolders:    p.opts.TrackHolders,
		Now:             p.opts.Now,
	}
}

// Close waits for a running garbage collection, closes everything and gives the directory free.
// A manager on the parts has to be closed first. Closing again returns the same result.
func (p *Parts) Close() error {
	p.once.Do(func() {
		p.running.close()
		var errs []error
		for i := len(p.closers) - 1; i >= 0; i-- {
			errs = append(errs, p.closers[i]())
		}
		p.err = stderrors.Join(errs...)
	})
	return p.err
}
