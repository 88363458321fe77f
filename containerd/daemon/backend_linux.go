package daemon

import (
	"context"
	stderrors "errors"
	"fmt"
	"hash/fnv"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
)

// EnvAddress names an environment variable with the address of a running daemon, for tests of other packages that are to use it.
const EnvAddress = "LAYERCACHE_CONTAINERD_ADDRESS"

// EnvSnapshotter names an environment variable with the snapshotter to use, whichever a test asks for.
const EnvSnapshotter = "LAYERCACHE_CONTAINERD_SNAPSHOTTER"

// Backend is a testutil.Backend on a running daemon. Each cache is in a namespace of its own.
type Backend struct {
	// Address is the daemon's.
	Address string
	// Snapshotter, if not empty, is used whichever a test asks for.
	Snapshotter string
}

// Open opens the parts of a cache.
func (b *Backend) Open(ctx context.Context, dir, snapshotter string) (cache.ManagerOpt, func() error, error) {
	c, err := client.New(b.Address)
	if err != nil {
		return cache.ManagerOpt{}, nil, err
	}
	if b.Snapshotter != "" {
		snapshotter = b.Snapshotter
	}
	ns := namespaceOf(dir)
	parts, err := containerd.OpenParts(ctx, c, dir, containerd.Options{Namespace: ns, Snapshotter: snapshotter})
	if errdefs.IsFailedPrecondition(err) && stderrors.Is(err, containerd.ErrBackend) {
		err = fmt.Errorf("%w: %w", errdefs.ErrNotImplemented, err)
	}
	if err != nil {
		return cache.ManagerOpt{}, nil, stderrors.Join(err, c.Close())
	}
	return parts.ManagerOpt(), func() error { return stderrors.Join(parts.Close(), c.Close()) }, nil
}

// namespaceOf returns the namespace for a directory of records.
func namespaceOf(dir string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(dir)) // it cannot fail
	return fmt.Sprintf("test-%x", h.Sum64())
}

// Clear deletes the leases of a directory's namespace, for which no cache is open any more, and what they kept.
func (b *Backend) Clear(t testing.TB, dir string) {
	ns := namespaceOf(dir)
	c, err := client.New(b.Address)
	if err != nil {
		t.Errorf("connecting to containerd: %v", err)
		return
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(context.Background(), ns)
	list, err := c.LeasesService().List(ctx)
	if err != nil {
		t.Errorf("listing the leases of namespace %s: %v", ns, err)
	}
	for i, l := range list {
		var opts []leases.DeleteOpt
		if i == len(list)-1 {
			opts = append(opts, leases.SynchronousDelete)
		}
		if err := c.LeasesService().Delete(ctx, l, opts...); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("deleting a lease in namespace %s: %v", ns, err)
		}
	}
}
