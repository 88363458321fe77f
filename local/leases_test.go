package local

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
)

// Open deletes the temporary leases of a process that died, whoever's they are, and no others. spec LEASE-6, fault 32
func TestTemporaryLeases(t *testing.T) {
	dir := t.TempDir()
	p := openParts(t, dir, Options{Snapshotter: Native})
	for _, opts := range [][]leases.Opt{
		{leases.WithID("temporary"), leases.WithLabel("buildkit/lease.temporary", "2020-01-01T00:00:00Z")},
		{leases.WithID("kept"), leases.WithLabel("containerd.io/gc.flat", "2020-01-01T00:00:00Z")},
	} {
		_, err := p.LeaseManager.Create(t.Context(), opts...)
		require.NoError(t, err)
	}
	require.NoError(t, p.Close())

	c := openCache(t, dir, Options{})
	left, err := c.Parts.LeaseManager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, "kept", left[0].ID)
	require.NoError(t, c.Close())
}

// Opening lists the leases once, for the manager and for the temporary ones: those that are made later stay. spec LEASE-6
func TestLeasesAreListedOnce(t *testing.T) {
	for _, managed := range []bool{true, false} {
		p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
		temporary := leases.WithLabel(labelTemporary, "2020-01-01T00:00:00Z")
		create := func(id string) {
			_, err := p.LeaseManager.Create(t.Context(), leases.WithID(id), temporary)
			require.NoError(t, err)
		}
		create("temporary")
		if managed {
			m, err := cache.NewManager(p.ManagerOpt())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, m.Close()) })
			create("later")
		}
		require.NoError(t, p.dropTemporaryLeases(t.Context()))
		create("much later")
		require.NoError(t, p.dropTemporaryLeases(t.Context()), "there are none left")
		left, err := p.LeaseManager.List(t.Context())
		require.NoError(t, err)
		var ids []string
		for _, l := range left {
			ids = append(ids, l.ID)
		}
		if managed {
			require.Equal(t, []string{"later", "much later"}, ids)
		} else {
			require.Equal(t, []string{"much later"}, ids)
		}
	}
}

// A walk shows all leases as containerd lists them, its metadata being read directly.
func TestWalkLeases(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	same := func(ctx context.Context) (n int) {
		list, err := p.leases.List(ctx)
		require.NoError(t, err)
		want, got := map[string]map[string]string{}, map[string]map[string]string{}
		for _, l := range list {
			want[l.ID] = map[string]string{}
			maps.Copy(want[l.ID], l.Labels)
		}
		require.NoError(t, p.leases.WalkLeases(ctx, func(id string, labels map[string]string) error {
			got[id] = maps.Clone(labels)
			return nil
		}))
		require.Equal(t, want, got)
		return len(got)
	}
	require.Zero(t, same(ctx), "there is no bucket yet")
	for i := range 50 {
		opts := []leases.Opt{leases.WithID(fmt.Sprint("lease", i))}
		if i%3 > 0 {
			opts = append(opts, leases.WithLabels(map[string]string{"record": fmt.Sprint("lease", i), "same": "v", "other": fmt.Sprint(i)}))
		}
		l, err := p.leases.Create(ctx, opts...)
		require.NoError(t, err)
		require.NoError(t, p.leases.AddResource(ctx, l, leases.Resource{ID: "s", Type: "snapshots/native"}))
	}
	require.Equal(t, 50, same(ctx))
	require.NoError(t, p.tx.update(ctx, func(ctx context.Context) error {
		for i := range 2 * maxCommon {
			labels := map[string]string{"record": fmt.Sprint("more", i), "other": fmt.Sprint(i)}
			if _, err := p.leases.Create(ctx, leases.WithID(fmt.Sprint("more", i)), leases.WithLabels(labels)); err != nil {
				return err
			}
		}
		require.Equal(t, 50+2*maxCommon, same(ctx), "in the transaction")
		return nil
	}))
	require.Equal(t, 50+2*maxCommon, same(ctx))
	require.Zero(t, same(namespaces.WithNamespace(t.Context(), "another")))

	none := func(string, map[string]string) error { return nil }
	require.ErrorIs(t, p.leases.WalkLeases(t.Context(), none), errdefs.ErrFailedPrecondition, "no namespace")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, p.leases.WalkLeases(ended, none), context.Canceled)
	n := 0
	require.ErrorIs(t, p.leases.WalkLeases(ctx, func(string, map[string]string) error {
		n++
		return errdefs.ErrAborted
	}), errdefs.ErrAborted)
	require.Equal(t, 1, n)
}
