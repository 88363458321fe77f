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

func (w *leaseManager) Create(ctx context.Context, opts ...leases.Opt) (l leases.Lease, err error) {
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
	err = w.f.Call(ctx, OpLeaseCreate, asked.ID, func() (err error) {
		l, err = w.lm.Create(ctx, same)
		return err
	})
	if err != nil {
		return leases.Lease{}, err
	}
	return l, nil
}

func (w *leaseManager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	return w.f.Call(ctx, OpLeaseDelete, l.ID, func() error {
		return w.lm.Delete(ctx, l, opts...)
	})
}

func (w *leaseManager) List(ctx context.Context, filters ...string) (ls []leases.Lease, err error) {
	err = w.f.Call(ctx, OpLeaseList, "", func() (err error) {
		ls, err = w.lm.List(ctx, filters...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ls, nil
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

func (w *leaseManager) ListResources(ctx context.Context, l leases.Lease) (rs []leases.Resource, err error) {
	err = w.f.Call(ctx, OpLeaseListResources, l.ID, func() (err error) {
		rs, err = w.lm.ListResources(ctx, l)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rs, nil
}
