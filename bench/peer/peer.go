// Package peer is BuildKit's side of the comparison: its packages cache, cache/metadata and
// snapshot on containerd's parts, put together as its own worker does it.
package peer

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/diff/apply"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	ctdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/winlayers"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/bench/image"
	"github.com/layercache/cache/bench/pruning"
	"github.com/layercache/cache/testutil/fault"
)

const namespace = "buildkit"

// Cache is an open cache directory.
type Cache struct {
	// Manager is nil until Start.
	cache.Manager
	// DB is containerd's metadata.
	DB *ctdmetadata.DB

	opt       cache.ManagerOpt
	collector pruning.Collector
	closers   []func() error
}

// Prepare opens the parts of dir with the named snapshotter, overlayfs, native or image.CopyingSnapshotter, and leaves it to
// Start to make the manager. If calls is not nil, it counts what the manager asks of the parts.
func Prepare(ctx context.Context, dir, snapshotter string, calls *fault.Faults) (_ *Cache, err error) {
	c := &Cache{}
	defer func() {
		if err != nil {
			err = stderrors.Join(err, c.Close())
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errors.WithStack(err)
	}
	trees, err := openSnapshotter(snapshotter, filepath.Join(dir, "snapshots"))
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, trees.Close)
	blobs, err := contentlocal.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return nil, err
	}
	db, err := boltutil.Open(filepath.Join(dir, "containerdmeta.db"), 0o644, &bolt.Options{
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
	})
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, db.Close)
	c.DB = ctdmetadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{snapshotter: trees})
	if err := c.DB.Init(ctx); err != nil {
		return nil, err
	}
	c.collector.Backend = c.DB.GarbageCollect
	if c.opt, err = c.options(dir, snapshotter, calls); err != nil {
		return nil, err
	}
	// A manager only closes its store, so that this does for both.
	c.closers = append(c.closers, c.opt.MetadataStore.Close)
	return c, nil
}

// Start makes the manager, which loads all records.
func (c *Cache) Start() error {
	manager, err := cache.NewManager(c.opt)
	if err != nil {
		return err
	}
	c.Manager = manager
	return nil
}

func openSnapshotter(name, root string) (snapshots.Snapshotter, error) {
	switch name {
	case "overlayfs":
		return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
	case "native", image.CopyingSnapshotter:
		return native.NewSnapshotter(root)
	}
	return nil, errors.Errorf("snapshotter %q is unknown", name)
}

// options puts the wrappers of the worker around the parts.
func (c *Cache) options(dir, snapshotter string, calls *fault.Faults) (cache.ManagerOpt, error) {
	trees, blobs, leased := c.DB.Snapshotter(snapshotter), c.DB.ContentStore(), ctdmetadata.NewLeaseManager(c.DB)
	if calls != nil {
		trees, blobs, leased = calls.ContainerdSnapshotter(trees), calls.ContentStore(blobs), calls.LeaseManager(leased)
	}
	rows, err := metadata.NewStore(filepath.Join(dir, "metadata_v2.db"))
	if err != nil {
		return cache.ManagerOpt{}, err
	}
	store := ctdsnapshot.NewContentStore(blobs, namespace)
	return cache.ManagerOpt{
		Snapshotter:    ctdsnapshot.NewSnapshotter(snapshotter, trees, namespace, nil),
		ContentStore:   store,
		LeaseManager:   leaseutil.WithNamespace(leased, namespace),
		GarbageCollect: c.collector.Collect,
		Applier:        winlayers.NewFileSystemApplierWithWindows(store, apply.NewFileSystemApplier(store)),
		Differ:         winlayers.NewWalkingDiffWithWindows(store, walking.NewWalkingDiff(store)),
		MetadataStore:  rows,
		Root:           dir,
		MountPoolRoot:  filepath.Join(dir, "cachemounts"),
	}, nil
}

// NewLayer makes a record that stays: New, Commit, Finalize, Release.
func (c *Cache) NewLayer(ctx context.Context) (string, error) {
	mut, err := c.New(ctx, nil, nil, cache.CachePolicyRetain)
	if err != nil {
		return "", err
	}
	imm, err := mut.Commit(ctx)
	if err != nil {
		return "", stderrors.Join(err, mut.Release(ctx))
	}
	if err := imm.Finalize(ctx); err != nil {
		return "", stderrors.Join(err, imm.Release(ctx))
	}
	id := imm.ID()
	return id, imm.Release(ctx)
}

// GetRelease gets a ref to the record and releases it.
func (c *Cache) GetRelease(ctx context.Context, id string) error {
	ref, err := c.Get(ctx, id, nil)
	if err != nil {
		return err
	}
	if got := ref.ID(); got != id {
		return stderrors.Join(errors.Errorf("asked for record %q, got %q", id, got), ref.Release(ctx))
	}
	return ref.Release(ctx)
}

// Census counts all records, and those that are in use.
func (c *Cache) Census(ctx context.Context) (records, inUse int, err error) {
	list, err := c.DiskUsage(ctx, client.DiskUsageInfo{})
	if err != nil {
		return 0, 0, err
	}
	for _, u := range list {
		if u.InUse {
			inUse++
		}
	}
	return len(list), inUse, nil
}

// Close closes the cache.
func (c *Cache) Close() error {
	var errs []error
	for i := len(c.closers) - 1; i >= 0; i-- {
		errs = append(errs, c.closers[i]())
	}
	return stderrors.Join(errs...)
}
