package daemon

import (
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// TestReach: a merge and a diff show the same whether this process can reach the daemon's directories or leaves everything to
// the daemon; in the first case files are links, in the second copies; and blobs are made in both, which another cache unpacks to
// the same (spec MRG-1, MRG-6, scenarios S-13, S-32).
func TestReach(t *testing.T) {
	d := Start(t)
	for _, sn := range []string{"overlayfs", "native"} {
		for _, reach := range []containerd.Reach{containerd.ReachProbe, containerd.ReachNone} {
			t.Run(sn+"/"+reach.String(), func(t *testing.T) {
				ctx := t.Context()
				open := func() *containerd.Cache {
					dir := t.TempDir()
					c, err := containerd.Open(ctx, d.Client(), dir, containerd.Options{Namespace: namespaceOf(dir), Snapshotter: sn, Reach: reach})
					require.NoError(t, err)
					return c
				}
				c := open()
				direct := reach == containerd.ReachProbe
				require.Equal(t, direct, c.Parts.Reach == containerd.ReachDirect, c.Parts.ReachReason)
				var o origin
				base := o.get(t, c, o.layer(t, tree.File("a", "1"), tree.File("b", "2"), tree.Dir("dir"), tree.File("dir/c", "3")), nil)
				child := o.layer(t, tree.Whiteout("a"), tree.File("b", "new"), tree.Opaque("dir"), tree.File("dir/d", "4"))
				top := o.get(t, c, child, base)
				other := o.get(t, c, o.layer(t, tree.File("a", "other"), tree.File("e", "5")), nil)

				diff, err := c.Diff(ctx, base, top, nil)
				require.NoError(t, err)
				merged, err := c.Merge(ctx, []cache.ImmutableRef{other, diff}, nil)
				require.NoError(t, err)
				want := []tree.Entry{tree.File("b", "new"), tree.Dir("dir"), tree.File("dir/d", "4"), tree.File("e", "5")}
				requireTree(t, merged, want...)

				info := usageOf(t, c)
				blocks := info[merged.ID()].Size / 4096
				require.Equal(t, direct, blocks <= 2, "%d blocks: those of directories, and of files that are no links", blocks)

				remotes, err := merged.GetRemotes(ctx, true, remote.RefConfig{Compression: compression.Config{Type: codec.Gzip}}, false, nil)
				require.NoError(t, err)
				require.Len(t, remotes, 1)
				second := open()
				var below cache.ImmutableRef
				for _, desc := range remotes[0].Descriptors {
					dhs := cache.DescHandlers{desc.Digest: {Provider: func(session.Group) content.Provider { return remotes[0].Provider }, Ref: "first"}}
					if below != nil {
						for _, lower := range remotes[0].Descriptors {
							dhs[lower.Digest] = dhs[desc.Digest]
						}
					}
					ref, err := second.GetByBlob(ctx, desc, below, dhs)
					require.NoError(t, err)
					if below != nil {
						require.NoError(t, below.Release(ctx))
					}
					below = ref
				}
				requireTree(t, below, want...)
				require.NoError(t, below.Release(ctx))
				for _, ref := range []cache.ImmutableRef{base, top, other, diff, merged} {
					require.NoError(t, ref.Release(ctx))
				}
				for _, c := range []*containerd.Cache{c, second} {
					found, err := c.Check(ctx)
					require.NoError(t, err)
					require.Empty(t, found)
					require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
					require.Zero(t, c.Stats().Records)
					require.Empty(t, snapshotsIn(t, d, c.Parts.Namespace, sn))
					require.Empty(t, blobsIn(t, d, c.Parts.Namespace))
					require.NoError(t, c.Close())
				}
			})
		}
	}
}

// usageOf describes all records.
func usageOf(t *testing.T, m cache.Manager) map[string]*usage.Info {
	t.Helper()
	list, err := m.DiskUsage(t.Context(), usage.DiskUsageInfo{})
	require.NoError(t, err)
	infos := map[string]*usage.Info{}
	for _, info := range list {
		infos[info.ID] = info
	}
	return infos
}
