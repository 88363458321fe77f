package local

import (
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"
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
