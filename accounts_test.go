package cache_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// storedBlobs has garbage collected, and sums up the blobs that are left.
func storedBlobs(t *testing.T, env *testutil.Env) (total int64) {
	t.Helper()
	_, err := env.Opt.GarbageCollect(ctx)
	require.NoError(t, err)
	require.NoError(t, env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
		total += info.Size
		return nil
	}))
	return total
}

// stored sums up what the backend holds after a collection: all blobs, and all snapshots that are no views.
func stored(t *testing.T, env *testutil.Env) (total int64) {
	t.Helper()
	total = storedBlobs(t, env)
	var names []string
	require.NoError(t, env.Opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindView {
			names = append(names, info.Name)
		}
		return nil
	}))
	for _, name := range names {
		u, err := env.Opt.Snapshotter.Usage(ctx, name)
		require.NoError(t, err)
		total += u.Size
	}
	return total
}

// requireAccounted requires that the sizes of all records sum up to what the backend holds.
func requireAccounted(t *testing.T, env *testutil.Env, what string) {
	t.Helper()
	requireSum(t, env, stored(t, env), what)
}

// requireSum requires that the sizes of all records sum up to want.
func requireSum(t *testing.T, env *testutil.Env, want int64, what string) {
	t.Helper()
	infos := usageByID(t, env)
	require.Equal(t, want, sumOf(infos), "%s: %v", what, infos)
}

func sumOf(infos map[string]*usage.Info) (sum int64) {
	for _, u := range infos {
		sum += u.Size
	}
	return sum
}

// pruneOnly deletes one record, and requires that as much was reported to come free as did.
func pruneOnly(t *testing.T, env *testutil.Env, id string) {
	t.Helper()
	before := stored(t, env)
	infos := prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + id}})
	require.Len(t, infos, 1)
	require.Equal(t, before-stored(t, env), infos[0].Size, "what came free with %s", id)
	requireAccounted(t, env, "without "+id)
}

// Fault 14, spec SIZE-6, MGR-29, quirk Q24: what several records own is counted once, and stays counted as long as one of them is there:
// a layer in two compressions, on one base and on another.
func TestSharedThingsAreCountedOnce(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				files := []tree.Entry{tree.File("f", "the same in both")}
				left, right := byBlob(t, env, r, r.layer(t, "gzip", tree.File("left", "1")), nil), byBlob(t, env, r, r.layer(t, "gzip", tree.File("right", "2")), nil)
				gz, zs := r.layer(t, "gzip", files...), r.layer(t, "zstd", files...)
				tops := []cache.ImmutableRef{byBlob(t, env, r, gz, left), byBlob(t, env, r, zs, left), byBlob(t, env, r, gz, right)}
				requireAccounted(t, env, "nothing is here yet")
				for i, top := range tops {
					_, err := top.FileList(ctx, nil)
					require.NoError(t, err)
					requireAccounted(t, env, fmt.Sprint("blob of ", i))
				}
				for i, top := range tops {
					require.NoError(t, top.Extract(ctx, nil))
					requireAccounted(t, env, fmt.Sprint("tree of ", i))
				}
				ids := idsOf(tops)
				releaseAll(t, tops, refs(left, right))
				env.Reopen()
				requireAccounted(t, env, "after a start")
				for _, i := range order {
					pruneOnly(t, env, ids[i])
				}
			})
		})
	}
}

// Spec SIZE-1, VAR-3, scenario S-19: compressions of a blob are counted with it, once for all who have them, also when those who made them are gone.
func TestVariantsAreCountedOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layer := finalized(t, env, nil, fileIn(t, "f", "some text, some text, some text"))
		first := export(t, layer, as(codec.Gzip))
		requireAccounted(t, env, "one blob")
		export(t, layer, forced(codec.Zstd))
		export(t, layer, forced(codec.Uncompressed))
		requireAccounted(t, env, "three blobs")

		base := finalized(t, env, nil, fileIn(t, "base", "x"))
		export(t, base, as(codec.Gzip))
		other, err := env.Manager.GetByBlob(ctx, first.Descriptors[0], base)
		require.NoError(t, err)
		requireAccounted(t, env, "another owner")
		export(t, other, forced(codec.Zstd))
		requireAccounted(t, env, "which has it in another form, too")
		ids := []string{layer.ID(), other.ID(), base.ID()}
		release(t, layer, other, base)
		for _, id := range ids {
			prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + id}})
			requireAccounted(t, env, "without "+id)
		}
		require.Zero(t, stored(t, env))
	})
}
