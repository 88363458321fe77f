package main

import (
	"context"
	stderrors "errors"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/metadata"
	ctdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

const (
	namespace   = "buildkit"
	snapshotter = "native"
)

// engine is BuildKit's cache manager with containerd's parts below it.
type engine struct {
	manager cache.Manager
	blobs   content.Store
	leases  leases.Manager
}

// writeManager fills the database at path through a cache manager in dir.
func writeManager(ctx context.Context, dir, path string) (err error) {
	trees, err := native.NewSnapshotter(filepath.Join(dir, "snapshots"))
	if err != nil {
		return errors.WithStack(err)
	}
	files, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return errors.WithStack(err)
	}
	db, err := bolt.Open(filepath.Join(dir, "containerdmeta.db"), 0o600, nil)
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, db.Close()) }()
	parts := ctdmetadata.NewDB(db, files, map[string]snapshots.Snapshotter{snapshotter: trees})
	if err := parts.Init(ctx); err != nil {
		return errors.WithStack(err)
	}
	rows, err := metadata.NewStore(path)
	if err != nil {
		return err
	}
	e := &engine{
		blobs:  ctdsnapshot.NewContentStore(parts.ContentStore(), namespace),
		leases: leaseutil.WithNamespace(ctdmetadata.NewLeaseManager(parts), namespace),
	}
	e.manager, err = cache.NewManager(cache.ManagerOpt{
		Snapshotter:    ctdsnapshot.NewSnapshotter(snapshotter, parts.Snapshotter(snapshotter), namespace, nil),
		ContentStore:   e.blobs,
		LeaseManager:   e.leases,
		GarbageCollect: parts.GarbageCollect,
		Applier:        apply.NewFileSystemApplier(e.blobs),
		Differ:         walking.NewWalkingDiff(e.blobs),
		MetadataStore:  rows,
		Root:           dir,
		MountPoolRoot:  filepath.Join(dir, "cachemounts"),
	})
	if err != nil {
		return stderrors.Join(err, rows.Close())
	}
	// The manager does not close the store it was given.
	return stderrors.Join(e.fill(ctx), e.manager.Close(), rows.Close())
}
