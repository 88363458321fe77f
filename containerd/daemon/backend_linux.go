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
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
)

// EnvAddress names an environment variable with the address of a running daemon, for tests of other packages that are to use it.
const EnvAddress = "LAYERCACHE_CONTAINERD_ADDRESS"

// EnvSnapshotter names an environment variable with the snapshotter to use, whichever a test asks for.
const EnvSnapshotter = "LAYERCACHE_CONTAINERD_SNAPSHOTTER"

// Backend is a testutil.Backend on a running daemon. Each cache is in a namespace of its own.
type Backend struct {
	client      *client.Client
	snapshotter string
}

// NewBackend connects to the daemon at an address, for the rest of the process: the connection's goroutines are then those of
// no test. Snapshotter, if not empty, is used whichever a test asks for.
func NewBackend(ctx context.Context, address, snapshotter string) (*Backend, error) {
	c, err := client.New(address)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	serving, err := c.IsServing(ctx)
	if err == nil && !serving {
		err = errdefs.ErrUnavailable
	}
	if err != nil {
		return nil, errors.Wrapf(stderrors.Join(err, c.Close()), "connecting to containerd at %s", address)
	}
	return &Backend{client: c, snapshotter: snapshotter}, nil
}

// Open opens the parts of a cache.
func (b *Backend) Open(ctx context.Context, dir, snapshotter string) (cache.ManagerOpt, func() error, error) {
	if b.snapshotter != "" {
		snapshotter = b.snapshotter
	}
	parts, err := containerd.OpenParts(ctx, b.client, dir, containerd.Options{Namespace: namespaceOf(dir), Snapshotter: snapshotter})
	if errors.Is(err, containerd.ErrBackend) {
		err = errors.Wrap(errdefs.ErrNotImplemented, err.Error()) // made by others, or for another snapshotter
	}
	if err != nil {
		return cache.ManagerOpt{}, nil, err
	}
	return parts.ManagerOpt(), parts.Close, nil
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
	ctx := namespaces.WithNamespace(context.Background(), ns)
	list, err := b.client.LeasesService().List(ctx)
	if err != nil {
		t.Errorf("listing the leases of namespace %s: %v", ns, err)
	}
	for i, l := range list {
		var opts []leases.DeleteOpt
		if i == len(list)-1 {
			opts = append(opts, leases.SynchronousDelete)
		}
		if err := b.client.LeasesService().Delete(ctx, l, opts...); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("deleting a lease in namespace %s: %v", ns, err)
		}
	}
}
