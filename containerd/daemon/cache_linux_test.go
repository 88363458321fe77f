package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// TestBasicLifeCycle: a layer is written, finalized, found by another process, built upon, and pruned, after which nothing is left in the
// namespace (scenario S-1).
func TestBasicLifeCycle(t *testing.T) {
	d := Start(t)
	for _, sn := range []string{"overlayfs", "native"} {
		t.Run(sn, func(t *testing.T) {
			ctx, dir := t.Context(), t.TempDir()
			opts := containerd.Options{Namespace: "life-" + sn, Snapshotter: sn}
			c, err := containerd.Open(ctx, d.Client(), dir, opts)
			require.NoError(t, err)
			require.Equal(t, containerd.ReachDirect, c.Parts.Reach, c.Parts.ReachReason)

			mut, err := c.New(ctx, nil, nil, cache.CachePolicyRetain, cache.WithDescription("a layer"))
			require.NoError(t, err)
			id := mut.ID()
			testutil.WithMount(t, mut, false, func(root string) {
				require.NoError(t, os.WriteFile(filepath.Join(root, "file"), []byte("content"), 0o644))
			})
			ref, err := mut.Commit(ctx)
			require.NoError(t, err)
			require.NoError(t, ref.Finalize(ctx))
			require.NoError(t, ref.Release(ctx))
			require.NoError(t, c.Close())

			c, err = containerd.Open(ctx, d.Client(), dir, opts)
			require.NoError(t, err)
			_, err = c.Get(ctx, id, nil)
			require.True(t, cache.IsNotFound(err), "%v", err)
			ref, err = c.Get(ctx, ref.ID(), nil)
			require.NoError(t, err)
			require.Equal(t, "a layer", ref.GetDescription())
			testutil.WithMount(t, ref, true, func(root string) {
				testutil.RequireTree(t, root, tree.File("file", "content"))
			})
			mut, err = c.New(ctx, ref, nil)
			require.NoError(t, err)
			require.NoError(t, ref.Release(ctx))
			require.NoError(t, mut.Release(ctx))
			found, err := c.Check(ctx)
			require.NoError(t, err)
			require.Empty(t, found)
			require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
			infos, err := c.DiskUsage(ctx, usage.DiskUsageInfo{})
			require.NoError(t, err)
			require.Empty(t, infos)
			require.NoError(t, c.Close())

			nctx := namespaces.WithNamespace(ctx, opts.Namespace)
			var left []leases.Lease
			left, err = d.Client().LeasesService().List(nctx)
			require.NoError(t, err)
			require.Empty(t, left)
			require.Empty(t, snapshotsIn(t, d, opts.Namespace, sn))
		})
	}
}
