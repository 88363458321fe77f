package daemon

import (
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// TestRoundTrips: what each operation asks of the daemon, in steady state. docs/roundtrips.md has them beside those of BuildKit's worker.
// Bench rows 1, 3, 5, 11 count the same for an embedded cache.
func TestRoundTrips(t *testing.T) {
	d := Start(t)
	for _, sn := range []string{"overlayfs", "native"} {
		t.Run(sn, func(t *testing.T) {
			ctx := t.Context()
			var n Calls
			c, err := containerd.Open(ctx, d.Client(n.Opt()), t.TempDir(), containerd.Options{Namespace: "trips-" + sn, Snapshotter: sn})
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close()) }()
			expect := func(what, want string, total int) {
				t.Helper()
				got, sum := n.Take()
				require.Equal(t, want, got, what)
				require.Equal(t, total, sum, what)
			}
			n.Take()

			mut, err := c.New(ctx, nil, nil)
			require.NoError(t, err)
			expect("New", "1 Leases/Create, 1 Snapshots/Prepare", 2)

			ref, err := mut.Commit(ctx)
			require.NoError(t, err)
			expect("Commit", "", 0)
			require.NoError(t, ref.Finalize(ctx))
			expect("Finalize", "1 Leases/Create, 1 Leases/Delete, 1 Snapshots/Commit", 3)

			require.NoError(t, ref.Release(ctx))
			expect("Release", "", 0)
			got, err := c.Get(ctx, ref.ID(), nil)
			require.NoError(t, err)
			expect("Get", "", 0)

			mountable, err := got.Mount(ctx, true, nil)
			require.NoError(t, err)
			_, release, err := mountable.Mount()
			require.NoError(t, err)
			expect("Mount", "1 Leases/Create, 1 Snapshots/View", 2)
			require.NoError(t, release())
			require.NoError(t, got.Release(ctx))
			expect("Release of what was mounted", "1 Leases/Delete", 1)

			var o origin
			desc := o.layer(t, tree.File("file", "content"))
			lazy := o.get(t, c, desc, nil)
			expect("GetByBlob miss", "2 Leases/AddResource, 1 Leases/Create", 3)
			again := o.get(t, c, desc, nil)
			expect("GetByBlob hit", "", 0)
			require.NoError(t, again.Release(ctx))
			require.NoError(t, lazy.Release(ctx))
			expect("Release of a lazy layer", "", 0)

			// Sizes are asked for once, and stored.
			require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
			makeLayers(t, c, 100)
			n.Take()
			require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
			expect("Prune of 100 records of unknown size", "1 Leases/Create, 101 Leases/Delete, 100 Snapshots/Usage", 202)

			makeLayers(t, c, 100)
			_, err = c.DiskUsage(ctx, usage.DiskUsageInfo{})
			require.NoError(t, err)
			n.Take()
			require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
			expect("Prune of 100 records", "1 Leases/Create, 101 Leases/Delete", 102)
			require.Zero(t, c.Stats().Records)
		})
	}
}

// makeLayers makes n layers that nobody holds.
func makeLayers(t *testing.T, m cache.Manager, n int) {
	t.Helper()
	for range n {
		mut, err := m.New(t.Context(), nil, nil)
		require.NoError(t, err)
		ref, err := mut.Commit(t.Context())
		require.NoError(t, err)
		require.NoError(t, ref.Finalize(t.Context()))
		require.NoError(t, ref.Release(t.Context()))
	}
}

// TestRoundTripsOfAStart: opening a directory of many records lists the leases, and asks for nothing per record (bench row 7).
func TestRoundTripsOfAStart(t *testing.T) {
	d := Start(t)
	ctx, dir := t.Context(), t.TempDir()
	var n Calls
	cl := d.Client(n.Opt())
	c, err := containerd.Open(ctx, cl, dir, containerd.Options{})
	require.NoError(t, err)
	makeLayers(t, c, 20)
	require.NoError(t, c.Close())
	n.Take()
	c, err = containerd.Open(ctx, cl, dir, containerd.Options{Reach: containerd.ReachDirect})
	require.NoError(t, err)
	got, total := n.Take()
	require.Equal(t, "1 Introspection/Plugins, 1 Introspection/Server, 1 Leases/List", got)
	require.Equal(t, 3, total)
	require.Equal(t, 20, c.Stats().Records)
	require.NoError(t, c.Close())
}

// TestManyLeases: a namespace with more leases than go into one message is opened, and nothing of the cache is taken for lost or left
// (spec INIT-3, INIT-11; bench row 7).
func TestManyLeases(t *testing.T) {
	const message, n = 4 << 10, 60 // a lease takes some 150 bytes
	d := Start(t)
	ctx, dir := t.Context(), t.TempDir()
	c, err := containerd.Open(ctx, d.Client(), dir, containerd.Options{})
	require.NoError(t, err)
	makeLayers(t, c, n)
	require.NoError(t, c.Close())
	var calls Calls
	short := client.WithCallOpts([]grpc.CallOption{grpc.MaxCallRecvMsgSize(message)})
	c, err = containerd.Open(ctx, d.Client(short, calls.Opt()), dir, containerd.Options{})
	require.NoError(t, err)
	text, _ := calls.Take()
	require.NotContains(t, text, "1 Leases/List")
	require.Equal(t, n, c.Stats().Records)
	found, err := c.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
	require.NoError(t, c.Close())
	require.Empty(t, leasesIn(t, d, containerd.DefaultNamespace))
}
