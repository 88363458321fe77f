package containerd

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"sync"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/introspection"
	introspectionproxy "github.com/containerd/containerd/v2/core/introspection/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
	ctdsnapshot "github.com/layercache/cache/snapshot/containerd"
	"github.com/layercache/cache/snapshot/winlayers"
)

const (
	recordsDB    = "metadata_v2.db"
	mountPoolDir = "cachemounts"
	scratchDir   = "unpacking"
	dirMode      = 0o700
)

// Parts is everything a manager is made from. The fields must not be changed; whoever wants something in between
// changes what ManagerOpt returns.
type Parts struct {
	// Dir is the absolute path of the directory with the records.
	Dir string
	// Namespace and SnapshotterName are those of the options, or what they stand for.
	Namespace, SnapshotterName string
	// Daemon is the UUID of the daemon, which it keeps over restarts.
	Daemon string
	// Reach is ReachDirect or ReachNone, and ReachReason says in a few words why.
	Reach       Reach
	ReachReason string
	// SnapshotterRoot is the directory that the daemon says its snapshots are in; "" if it does not say, or cannot be reached.
	SnapshotterRoot string

	// Snapshotter, ContentStore and LeaseManager work in the namespace. The last does not list leases that the parts themselves use for a moment.
	Snapshotter  snapshot.Snapshotter
	ContentStore content.Store
	LeaseManager leases.Manager
	// MetadataStore holds the records. Closing it early, as a manager does, is fine.
	MetadataStore *metadata.Store
	// Applier has the daemon unpack layers. Those that it cannot unpack are unpacked by the library if the directories can be reached.
	Applier diff.Applier
	// Differ packs layers: the library's own if the directories can be reached, and else the daemon's.
	Differ diff.Comparer

	opts   Options
	leases *leaseManager // below LeaseManager
	caps   snapshot.Capabilities
	syncFS func(context.Context) error // nil where nothing can be flushed
	// closers are run in reverse by Close.
	closers []func() error
	once    sync.Once
	err     error
}

// OpenParts opens a directory of records, which is made if it does not exist, and the parts on the daemon that c is connected to,
// without a manager. The client stays the caller's, and has to live longer than the parts; a connection of it that is found broken is
// replaced, for all its users (client.Reconnect). See Open for the errors.
func OpenParts(ctx context.Context, c *client.Client, dir string, opts Options) (_ *Parts, err error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, invalid("cache directory is empty")
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	cc, err := newConn(c, opts.CallTimeout)
	if err != nil {
		return nil, err
	}
	p := &Parts{Dir: dir, Namespace: opts.Namespace, SnapshotterName: opts.Snapshotter, opts: opts}
	defer func() {
		if err != nil {
			err = errors.WithMessagef(stderrors.Join(err, p.Close()), "open cache %s on containerd", dir)
		}
	}()
	if err := p.askDaemon(ctx, introspectionproxy.NewIntrospectionProxy(introspectionapi.NewIntrospectionClient(cc))); err != nil {
		return nil, err
	}
	if err := p.openRecords(); err != nil {
		return nil, err
	}
	if err := p.wire(ctx, cc); err != nil {
		return nil, err
	}
	if opts.Sync && p.syncFS == nil {
		return nil, invalid("option Sync: what the daemon writes cannot be flushed from here (reach %s: %s)", p.Reach, p.ReachReason)
	}
	return p, nil
}

// askDaemon finds out who the daemon is, and whether it has the snapshotter.
func (p *Parts) askDaemon(ctx context.Context, in introspection.Service) error {
	server, err := in.Server(ctx)
	if err != nil {
		return errors.Wrap(err, "asking containerd who it is")
	}
	p.Daemon = server.UUID
	list, err := in.Plugins(ctx, "type=="+string(plugins.SnapshotPlugin)+",id=="+p.SnapshotterName)
	if err != nil {
		return errors.Wrap(err, "asking containerd for its snapshotters")
	}
	if len(list.Plugins) == 0 {
		return errors.Wrapf(ErrSnapshotter, "there is no snapshotter %q", p.SnapshotterName)
	}
	found := list.Plugins[0]
	if found.InitErr != nil {
		return errors.Wrapf(ErrSnapshotter, "%q did not start: %s", p.SnapshotterName, found.InitErr.Message)
	}
	p.SnapshotterRoot = found.Exports["root"]
	return nil
}

// openRecords opens the directory, unless its records are of another backend.
func (p *Parts) openRecords() error {
	if err := os.MkdirAll(p.Dir, dirMode); err != nil {
		return errors.WithStack(err)
	}
	b := binding{Daemon: p.Daemon, Namespace: p.Namespace, Snapshotter: p.SnapshotterName}
	stored, err := b.check(p.Dir, p.opts.Adopt)
	if err != nil {
		return err
	}
	// Only who has the database open writes the binding, and does so before there is a record.
	var opts []metadata.Option
	if p.opts.NoSalvage {
		opts = append(opts, metadata.WithoutSalvage())
	}
	p.MetadataStore, err = metadata.NewStore(filepath.Join(p.Dir, recordsDB), opts...)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, p.MetadataStore.Close)
	if err := os.RemoveAll(p.scratch()); err != nil { // a process that died may have left it
		return errors.WithStack(err)
	}
	if stored {
		return nil
	}
	records, err := p.MetadataStore.All()
	if err != nil {
		return err
	}
	if len(records) > 0 && !p.opts.Adopt {
		return errors.Wrapf(ErrBackend, "%s has %d records, but does not say of which daemon", p.Dir, len(records))
	}
	return errors.Wrap(b.store(p.Dir), "storing what the records belong to")
}

// scratch is a directory for the time of one look at a layer. It need not exist.
func (p *Parts) scratch() string { return filepath.Join(p.Dir, scratchDir) }

// wire makes the parts.
func (p *Parts) wire(ctx context.Context, cc *conn) error {
	p.ContentStore = ctdsnapshot.NewContentStore(&contentStore{Store: contentproxy.NewContentStore(cc)}, p.Namespace)
	p.leases = newLeaseManager(leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(cc)))
	p.closers = append(p.closers, p.leases.close)
	p.LeaseManager = ctdsnapshot.NewLeaseManager(p.leases, p.Namespace)
	raw := snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(cc), p.SnapshotterName)
	p.Snapshotter = newSnapshotter(p.SnapshotterName, raw, p.Namespace, p.opts.IdentityMapping)

	service := client.NewDiffServiceFromClient(diffapi.NewDiffClient(cc))
	remote := &diffService{service: service, ns: p.Namespace}
	p.caps = snapshot.CapabilitiesOf(p.SnapshotterName)
	remove := func(ctx context.Context, key string) error {
		return raw.Remove(namespaces.WithNamespace(ctx, p.Namespace), key)
	}
	if err := p.reach(ctx, remove); err != nil {
		return err
	}
	if _, err := os.Stat(p.SnapshotterRoot); err != nil {
		p.SnapshotterRoot = "" // that of a snapshotter which keeps its directories elsewhere, or out of sight
	}
	if p.Reach == ReachDirect {
		p.Applier = winlayers.NewApplier(p.ContentStore, newApplier(p.ContentStore, remote, p.scratch()))
		p.Differ = newDiffer(p.ContentStore, remote)
		return p.openSync()
	}
	p.SnapshotterRoot = ""
	p.caps.NeverOverlayDiff, p.caps.Rebase = true, false
	p.Snapshotter = &portable{Snapshotter: p.Snapshotter, p: p, df: remote}
	p.Applier = winlayers.NewApplier(p.ContentStore, remote)
	p.Differ = remote
	return nil
}

// ManagerOpt returns the options of a manager on these parts. It may be changed before use.
func (p *Parts) ManagerOpt() cache.ManagerOpt {
	hooks := p.opts.Hooks
	if hooks.LayerContext == nil {
		hooks.LayerContext = winlayers.LayerContext
	}
	root := p.SnapshotterRoot
	if root == "" {
		root = p.Dir
	}
	caps := p.caps
	return cache.ManagerOpt{
		Snapshotter:     p.Snapshotter,
		Capabilities:    &caps,
		ContentStore:    p.ContentStore,
		LeaseManager:    p.LeaseManager,
		PruneRefChecker: p.opts.PruneRefChecker,
		GarbageCollect:  p.GarbageCollect,
		Applier:         p.Applier,
		Differ:          p.Differ,
		MetadataStore:   p.MetadataStore,
		Root:            root,
		Databases:       []string{filepath.Join(p.Dir, recordsDB)},
		MountPoolRoot:   filepath.Join(p.Dir, mountPoolDir),
		Hooks:           hooks,
		Sync:            p.opts.Sync,
		SyncFS:          p.syncFS,
		Observer:        p.opts.Observer,
		TrackHolders:    p.opts.TrackHolders,
		Now:             p.opts.Now,
	}
}

// Close closes the records. A manager on the parts has to be closed first; the client is left open. Closing again returns the same result.
func (p *Parts) Close() error {
	p.once.Do(func() {
		var errs []error
		for i := len(p.closers) - 1; i >= 0; i-- {
			errs = append(errs, p.closers[i]())
		}
		p.err = stderrors.Join(errs...)
	})
	return p.err
}
