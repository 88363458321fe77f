package containerd_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/containerd"
)

type recordingLeases struct{ recorder }

func (r *recordingLeases) Create(ctx context.Context, _ ...leases.Opt) (leases.Lease, error) {
	r.note(ctx, "Create")
	return leases.Lease{ID: "l"}, nil
}

func (r *recordingLeases) Delete(ctx context.Context, _ leases.Lease, _ ...leases.DeleteOpt) error {
	r.note(ctx, "Delete")
	return nil
}

func (r *recordingLeases) List(ctx context.Context, _ ...string) ([]leases.Lease, error) {
	r.note(ctx, "List")
	return nil, nil
}

func (r *recordingLeases) AddResource(ctx context.Context, _ leases.Lease, _ leases.Resource) error {
	r.note(ctx, "AddResource")
	return nil
}

func (r *recordingLeases) DeleteResource(ctx context.Context, _ leases.Lease, _ leases.Resource) error {
	r.note(ctx, "DeleteResource")
	return nil
}

func (r *recordingLeases) ListResources(ctx context.Context, _ leases.Lease) ([]leases.Resource, error) {
	r.note(ctx, "ListResources")
	return nil, nil
}

// TestLeaseContexts: all six calls in the namespace, and nothing else of their contexts changed (spec SNP-7).
func TestLeaseContexts(t *testing.T) {
	r := &recordingLeases{}
	first := containerd.NewLeaseManager(r, "first")
	for _, lm := range []*containerd.LeaseManager{first, first.WithNamespace("second"), first} {
		l := leases.Lease{ID: "l"}
		checkContexts(t, &r.recorder, lm.Namespace(), []method{
			{"Create", func(ctx context.Context) error { _, err := lm.Create(ctx); return err }},
			{"Delete", func(ctx context.Context) error { return lm.Delete(ctx, l) }},
			{"List", func(ctx context.Context) error { _, err := lm.List(ctx); return err }},
			{"AddResource", func(ctx context.Context) error { return lm.AddResource(ctx, l, leases.Resource{}) }},
			{"DeleteResource", func(ctx context.Context) error { return lm.DeleteResource(ctx, l, leases.Resource{}) }},
			{"ListResources", func(ctx context.Context) error { _, err := lm.ListResources(ctx, l); return err }},
		})
	}
	require.Equal(t, "first", first.Namespace())
	require.Equal(t, "second", first.WithNamespace("second").Namespace())
}
