package containerd

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"
)

// Labels of leases, as the manager sets them: by the two a start knows what a process of the same records left.
const (
	labelTemporary = "buildkit/lease.temporary"
	labelStore     = "layercache.io/store"
)

// temporaryLease makes a lease for a short time. It has no expiry: work may take long (spec LEASE-5). Should this process die the next start deletes it.
// Until dropTemporary it is not listed, so that a Check of the manager's does not find it, nor a Repair delete it, while it is needed.
func (p *Parts) temporaryLease(ctx context.Context) (leases.Lease, error) {
	store, err := p.MetadataStore.StoreID()
	if err != nil {
		return leases.Lease{}, err
	}
	id := rand.Text()
	p.leases.hide(id)
	l, err := p.LeaseManager.Create(ctx, leases.WithID(id), leases.WithLabels(map[string]string{
		labelStore:     store,
		labelTemporary: time.Now().UTC().Format(time.RFC3339Nano),
	}))
	if err != nil {
		p.dropTemporary(ctx, leases.Lease{ID: id}) // perhaps it was only the answer that got lost
		return leases.Lease{}, errors.Wrap(err, "creating a temporary lease")
	}
	return l, nil
}

// dropTemporary deletes such a lease whatever became of ctx.
func (p *Parts) dropTemporary(ctx context.Context, l leases.Lease) {
	defer p.leases.show(l.ID) // when it is gone, or left
	if err := p.LeaseManager.Delete(context.WithoutCancel(ctx), l); err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).WithField("lease", l.ID).Warn("layer cache: a temporary lease is left for the next start")
	}
}
