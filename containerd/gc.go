package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// GarbageCollect has the daemon remove what nothing refers to any more, in all of its namespaces, as it does by itself from time to
// time, and waits for it. There is no call for that but the deletion of a lease that asks for it, so one is made to be deleted. The
// statistics are nil: the daemon keeps them to itself.
//
// If ctx ends first it returns ctx's error, while the collection goes on.
func (p *Parts) GarbageCollect(ctx context.Context) (gc.Stats, error) {
	l, err := p.temporaryLease(ctx)
	if err != nil {
		return nil, errors.Wrap(err, "garbage collection")
	}
	if err := p.LeaseManager.Delete(ctx, l, leases.SynchronousDelete); err != nil && !errdefs.IsNotFound(err) {
		p.dropTemporary(ctx, l)
		return nil, errors.Wrap(err, "garbage collection")
	}
	p.leases.show(l.ID)
	return nil, nil
}
