package containerd

import (
	"context"
	stderrors "errors"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
)

// Cache is a manager together with the parts it works on.
type Cache struct {
	cache.Manager
	// Parts may be used beside the manager, for instance to look at leases and blobs.
	Parts *Parts

	once sync.Once
	err  error
}

// Open opens the cache whose records are in a directory, which is made if it does not exist, and whose layers are in the
// daemon that c is connected to. The caller must Close it, and the client afterwards.
//
// Errors: an invalid argument for a wrong option; unavailable if the daemon cannot be reached, or if another process has the directory
// open (metadata.ErrDatabaseLocked), and deadline exceeded if the daemon does not answer; [ErrBackend] for records of another
// backend; [ErrSnapshotter]; those of metadata.NewStore and cache.NewManager. After an error nothing has been removed.
func Open(ctx context.Context, c *client.Client, dir string, opts Options) (*Cache, error) {
	parts, err := OpenParts(ctx, c, dir, opts)
	if err != nil {
		return nil, err
	}
	manager, err := cache.NewManager(parts.ManagerOpt())
	if err != nil {
		return nil, stderrors.Join(errors.Wrapf(err, "open cache %s on containerd", parts.Dir), parts.Close())
	}
	return &Cache{Manager: manager, Parts: parts}, nil
}

// Close closes the manager and then the parts. Closing again returns the same result.
func (c *Cache) Close() error {
	c.once.Do(func() {
		err := c.Manager.Close()
		c.err = stderrors.Join(err, c.Parts.Close())
	})
	return c.err
}
