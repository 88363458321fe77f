package containerd_test

import (
	"context"
	"errors"
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

// walking is a lease manager that need not list.
type walking struct{ recordingLeases }

func (w *walking) WalkLeases(ctx context.Context, fn func(string, map[string]string) error) error {
	w.note(ctx, "WalkLeases")
	return fn("walked", nil)
}

// TestWalkLeases: leases are walked where the manager below can, and listed where it cannot.
func TestWalkLeases(t *testing.T) {
	var ids []string
	see := func(id string, labels map[string]string) error {
		ids = append(ids, id+labels["k"])
		return nil
	}
	w := &walking{}
	walked := containerd.NewLeaseManager(w, "first")
	checkContexts(t, &w.recorder, "first", []method{{"WalkLeases", func(ctx context.Context) error { return walked.WalkLeases(ctx, see) }}})
	require.Contains(t, ids, "walked")

	ids = nil
	lm := containerd.NewLeaseManager(&listed{}, "first")
	require.NoError(t, lm.WalkLeases(t.Context(), see))
	require.Equal(t, []string{"av", "b"}, ids)
	ids = nil
	broken := errors.New("broken")
	require.ErrorIs(t, lm.WalkLeases(t.Context(), func(string, map[string]string) error { return broken }), broken)
	lm = containerd.NewLeaseManager(&listed{err: broken}, "first")
	require.ErrorIs(t, lm.WalkLeases(t.Context(), see), broken)
	require.Empty(t, ids)
}

// listed is a lease manager that lists two.
type listed struct {
	leases.Manager
	err error
}

func (l *listed) List(context.Context, ...string) ([]leases.Lease, error) {
	return []leases.Lease{{ID: "a", Labels: map[string]string{"k": "v"}}, {ID: "b"}}, l.err
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
