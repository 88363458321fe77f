// Package ours is this library's side of the comparison.
package ours

import (
	"context"
	stderrors "errors"

	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/bench/image"
	"github.com/layercache/cache/bench/pruning"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// Cache is an open cache directory.
type Cache struct {
	// Manager is nil until Start.
	cache.Manager
	Parts *local.Parts

	opt       cache.ManagerOpt
	collector pruning.Collector
}

// Open opens dir with the named snapshotter, or the library's choice if the name is empty, as
// local.Open does, but without collecting garbage in the background. If calls is not nil, it
// counts what the manager asks of the parts.
func Open(ctx context.Context, dir, snapshotter string, calls *fault.Faults) (*Cache, error) {
	c, err := Prepare(ctx, dir, snapshotter, calls)
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, stderrors.Join(err, c.Close())
	}
	return c, nil
}

// Prepare opens the parts, and leaves it to Start to make the manager.
func Prepare(ctx context.Context, dir, snapshotter string, calls *fault.Faults) (*Cache, error) {
	opts := local.Options{Snapshotter: snapshotter}
	if snapshotter == image.CopyingSnapshotter {
		opts.NewSnapshotter = native.NewSnapshotter
	}
	parts, err := local.OpenParts(ctx, dir, opts)
	if err != nil {
		return nil, err
	}
	opt := parts.ManagerOpt()
	if calls != nil {
		opt.Snapshotter = calls.Snapshotter(opt.Snapshotter)
		opt.ContentStore = calls.ContentStore(opt.ContentStore)
		opt.LeaseManager = calls.LeaseManager(opt.LeaseManager)
		tx := *opt.Transactions
		tx.Update = calls.Transaction(tx.Update)
		opt.Transactions = &tx
	}
	c := &Cache{Parts: parts, collector: pruning.Collector{Backend: parts.GarbageCollect}}
	opt.GarbageCollect = c.collector.Collect
	c.opt = opt
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
	list, err := c.DiskUsage(ctx, usage.DiskUsageInfo{})
	if err != nil {
		return 0, 0, err
	}
	for _, u := range list {
		if u.InUse {
			inUse++
		}
	}
	if refs := c.Stats().Refs; refs != 0 && inUse == 0 {
		return 0, 0, errors.Errorf("%d refs are live, but no record is in use", refs)
	}
	return len(list), inUse, nil
}

// Close closes the cache.
func (c *Cache) Close() error {
	var err error
	if c.Manager != nil {
		err = c.Manager.Close()
	}
	return stderrors.Join(err, c.Parts.Close())
}
