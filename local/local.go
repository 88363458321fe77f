package local

import (
	"context"
	stderrors "errors"
	"sync"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
)

// Cache is a manager together with the parts it works on.
type Cache struct {
	cache.Manager
	// Parts may be used beside the manager, for instance to look at leases and blobs.
	Parts *Parts

	collecting chan struct{} // closed when the collection that Open started is over
	once       sync.Once
	err        error
}

// Open opens the cache in a directory, which is made if it does not exist. The caller must Close it.
//
// Temporary leases are deleted: nobody else has the directory open, so they are of a process that died.
// Unless the options say otherwise Open starts one garbage collection in the background, for what
// an earlier process left unprotected. A failure of that is logged, not returned.
//
// A directory that another process has open is [ErrInUse]. One that has been made with another
// snapshotter than the options name, or with one that does not work here, is [ErrSnapshotter].
// The other errors of this package and of cache.NewManager are possible as well.
func Open(ctx context.Context, dir string, opts Options) (*Cache, error) {
	parts, err := OpenParts(ctx, dir, opts)
	if err != nil {
		return nil, err
	}
	manager, err := cache.NewManager(parts.ManagerOpt())
	if err != nil {
		return nil, stderrors.Join(errors.Wrapf(err, "open cache in %s", parts.Dir), parts.Close())
	}
	if err := parts.dropTemporaryLeases(ctx); err != nil {
		return nil, stderrors.Join(errors.Wrapf(err, "open cache in %s", parts.Dir), manager.Close(), parts.Close())
	}
	c := &Cache{Manager: manager, Parts: parts, collecting: make(chan struct{})}
	if opts.NoBackgroundGC {
		close(c.collecting)
		return c, nil
	}
	go c.collect(context.WithoutCancel(ctx))
	return c, nil
}

// dropTemporaryLeases deletes the leases that are good for the time of a process only. The directory
// belongs to this one, which has none yet, so they are those of a process that died, be it BuildKit's; the
// manager by itself deletes its own alone (spec LEASE-6).
func (p *Parts) dropTemporaryLeases(ctx context.Context) error {
	left, err := p.leases.foundTemporary(namespaces.WithNamespace(ctx, namespace))
	if err != nil {
		return errors.Wrap(err, "listing temporary leases")
	}
	for _, l := range left {
		if err := p.LeaseManager.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return errors.Wrapf(err, "deleting temporary lease %q", l.ID)
		}
	}
	return nil
}

func (c *Cache) collect(ctx context.Context) {
	defer close(c.collecting)
	if _, err := c.Parts.GarbageCollect(ctx); err != nil && !errors.Is(err, ErrClosed) {
		log.G(ctx).WithError(err).Warn("local: garbage collection after opening failed")
	}
}

// Close closes the manager, waits for a running garbage collection, and closes the parts. Closing
// again returns the same result.
func (c *Cache) Close() error {
	c.once.Do(func() {
		err := c.Manager.Close()
		c.err = stderrors.Join(err, c.Parts.Close())
		<-c.collecting
	})
	return c.err
}
