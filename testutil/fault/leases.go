package fault

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
)

// Operations of a lease manager. The key is the lease's ID.
const (
	OpLeaseCreate         = "leases.Create"
	OpLeaseDelete         = "leases.Delete"
	OpLeaseList           = "leases.List"
	OpLeaseAddResource    = "leases.AddResource"
	OpLeaseDeleteResource = "leases.DeleteResource"
	OpLeaseListResources  = "leases.ListResources"
)

type leaseManager struct {
	f  *Faults
	lm leases.Manager
}

// LeaseManager wraps a lease manager.
func (f *Faults) LeaseManager(lm leases.Manager) leases.Manager {
	return &leaseManager{f: f, lm: lm}
}

func (w *leaseManager) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	// The options are what names the lease. They are run here, once, because some draw a random ID.
	var asked leases.Lease
	for _, opt := range opts {
		if err := opt(&asked); err != nil {
			return leases.Lease{}, err
		}
	}
	same := func(l *leases.Lease) error {
		*l = asked
		return nil
	}
	return get(ctx, w.f, OpLeaseCreate, asked.ID, func() (leases.Lease, error) { return w.lm.Create(ctx, same) })
}

func (w *leaseManager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	return w.f.Call(ctx, OpLeaseDelete, l.ID, func() error {
		return w.lm.Delete(ctx, l, opts...)
	})
}

func (w *leaseManager) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	return get(ctx, w.f, OpLeaseList, "", func() ([]leases.Lease, error) { return w.lm.List(ctx, filters...) })
}

func (w *leaseManager) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return w.f.Call(ctx, OpLeaseAddResource, l.ID, func() error {
		return w.lm.AddResource(ctx, l, r)
	})
}

func (w *leaseManager) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return w.f.Call(ctx, OpLeaseDeleteResource, l.ID, func() error {
		return w.lm.DeleteResource(ctx, l, r)
	})
}

func (w *leaseManager) ListResources(ctx context.Context, l leases.Lease) ([]leases.Resource, error) {
	return get(ctx, w.f, OpLeaseListResources, l.ID, func() ([]leases.Resource, error) { return w.lm.ListResources(ctx, l) })
}
