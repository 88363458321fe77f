package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// NewLeaseManager returns lm with every call made in namespace ns.
func NewLeaseManager(lm leases.Manager, ns string) *LeaseManager {
	return &LeaseManager{lm: lm, ns: ns}
}

// LeaseManager is a lease manager in one namespace.
type LeaseManager struct {
	lm leases.Manager
	ns string
}

var _ leases.Manager = (*LeaseManager)(nil)

func (l *LeaseManager) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, l.ns)
}

// Namespace returns the namespace all calls are made in.
func (l *LeaseManager) Namespace() string { return l.ns }

// WithNamespace returns the same lease manager in another namespace; l stays as it is.
func (l *LeaseManager) WithNamespace(ns string) *LeaseManager { return NewLeaseManager(l.lm, ns) }

// Create makes a lease.
func (l *LeaseManager) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	return l.lm.Create(l.in(ctx), opts...)
}

// Delete drops a lease; what only it held is garbage from then on.
func (l *LeaseManager) Delete(ctx context.Context, lease leases.Lease, opts ...leases.DeleteOpt) error {
	return l.lm.Delete(l.in(ctx), lease, opts...)
}

// List returns the leases that one of the filters matches.
func (l *LeaseManager) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	return l.lm.List(l.in(ctx), filters...)
}

// leaseWalker is a lease manager that shows its leases without making a list of them.
type leaseWalker interface {
	WalkLeases(ctx context.Context, fn func(id string, labels map[string]string) error) error
}

// WalkLeases calls fn for each lease, until it fails, with the labels that fn may look at during the call only. Where the
// lease manager below has no such method its leases are listed.
func (l *LeaseManager) WalkLeases(ctx context.Context, fn func(id string, labels map[string]string) error) error {
	if w, ok := l.lm.(leaseWalker); ok {
		return w.WalkLeases(l.in(ctx), fn)
	}
	list, err := l.List(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		if err := fn(list[i].ID, list[i].Labels); err != nil {
			return err
		}
	}
	return nil
}

// AddResource puts a resource, which need not exist yet, under a lease.
func (l *LeaseManager) AddResource(ctx context.Context, lease leases.Lease, r leases.Resource) error {
	return l.lm.AddResource(l.in(ctx), lease, r)
}

// DeleteResource takes a resource out of a lease.
func (l *LeaseManager) DeleteResource(ctx context.Context, lease leases.Lease, r leases.Resource) error {
	return l.lm.DeleteResource(l.in(ctx), lease, r)
}

// ListResources returns what a lease holds.
func (l *LeaseManager) ListResources(ctx context.Context, lease leases.Lease) ([]leases.Resource, error) {
	return l.lm.ListResources(l.in(ctx), lease)
}
