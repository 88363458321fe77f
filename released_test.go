package cache_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// Spec REF-1, REF-6, MGR-6: a released ref is of no use, whether its record is there or not, but to be cloned and built upon.
func TestReleasedRef(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layer := finalized(t, env, nil, fileIn(t, "f", "data"))
		kept := testutil.MakeLayer(t, env, layer, fileIn(t, "g", "more"), cache.CachePolicyRetain)
		lost := testutil.MakeLayer(t, env, layer, fileIn(t, "h", "lost"))
		release(t, lost, kept, layer)
		requireUsage(t, env, 0, 2)
		env.Faults.Reset()
		for _, ref := range []cache.ImmutableRef{layer, kept, lost} {
			for _, readonly := range []bool{true, false} {
				mountable, err := ref.Mount(ctx, readonly, nil)
				require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
				require.Nil(t, mountable)
			}
			require.True(t, errdefs.IsInvalidArgument(ref.Extract(ctx, nil)))
			require.True(t, errdefs.IsInvalidArgument(ref.Finalize(ctx)))
			_, err := ref.FileList(ctx, nil)
			require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
			_, err = ref.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
			require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		}
		require.Zero(t, env.Faults.Len(), "%s", env.Faults.Trace())

		clone := layer.Clone()
		requireFile(t, clone, "f", "data")
		child := finalized(t, env, layer, fileIn(t, "i", "child"))
		requireFile(t, child, "f", "data")
		release(t, clone, child)
	})
}

// usedAfterRelease is what the manager of a BuildKit fork has.
var usedAfterRelease = testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.UseAfterRelease = true })

// Spec REF-1, REF-3, REF-6, MGR-6: with UseAfterRelease a released ref does what it did as long as its record is there, which is no use of it and
// leaves nothing mounted. BuildKit's own tests of its git and HTTP sources mount such refs.
func TestUseAfterRelease(t *testing.T) {
	eachBackendWith(t, func(t *testing.T, env *testutil.Env) {
		layer := finalized(t, env, nil, fileIn(t, "f", "data"))
		kept := testutil.MakeLayer(t, env, layer, fileIn(t, "g", "more"), cache.CachePolicyRetain)
		mutID := mutableID(t, env, kept)
		release(t, layer, kept)
		uses := func() map[string]int {
			counts := map[string]int{}
			infos, err := env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
			require.NoError(t, err)
			for _, info := range infos {
				require.False(t, info.InUse && info.ID == kept.ID())
				counts[info.ID] = info.UsageCount
			}
			return counts
		}
		before := uses()
		for _, ref := range []cache.ImmutableRef{layer, kept} {
			for range 2 {
				mountable, err := ref.Mount(ctx, true, nil)
				require.NoError(t, err)
				require.Zero(t, env.Manager.Stats().Refs)
				mounts, unmount, err := mountable.Mount()
				require.NoError(t, err)
				require.NotEmpty(t, mounts)
				if unmount != nil {
					require.NoError(t, unmount())
				}
				requireFile(t, ref, "f", "data")
			}
			require.NoError(t, ref.Extract(ctx, nil))
			_, err := ref.FileList(ctx, nil)
			require.NoError(t, err)
		}
		remotes, err := layer.GetRemotes(ctx, true, remote.RefConfig{}, false, nil)
		require.NoError(t, err)
		require.Len(t, remotes[0].Descriptors, 1)
		require.Equal(t, before, uses())
		requireFile(t, kept, "g", "more")
		mut, err := env.Manager.GetMutable(ctx, mutID) // to look is not to finalize
		require.NoError(t, err)
		release(t, mut)
		_, err = kept.Mount(ctx, true, nil)
		require.True(t, errdefs.IsInvalidArgument(err), "what GetMutable took back: %v", err)

		require.NoError(t, layer.Finalize(ctx))
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 2)
		requireDead(t, env, layer)
	}, usedAfterRelease)
}

// Spec REF-1, REF-8, LEASE-5: a record that was neither finalized nor to be kept goes with its last ref. With UseAfterRelease the released ref can still be
// mounted for reading, under a lease, until the snapshot is collected, and does nothing else. BuildKit's own tests of its git source do so.
func TestRemnant(t *testing.T) {
	eachBackendWith(t, func(t *testing.T, env *testutil.Env) {
		base := finalized(t, env, nil, fileIn(t, "f", "data"))
		ref := testutil.MakeLayer(t, env, base, fileIn(t, "g", "more"))
		release(t, ref, base)
		requireUsage(t, env, 0, 1)

		mountable, err := ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		mounts, unmount, err := mountable.Mount()
		require.NoError(t, err)
		require.NotEmpty(t, mounts)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 1) // and collects
		for range 2 {
			requireFile(t, ref, "g", "more")
		}
		require.NoError(t, unmount())
		require.NoError(t, unmount())
		_, err = ref.Mount(ctx, false, nil)
		require.True(t, errdefs.IsInvalidArgument(err), "to write: %v", err)
		require.True(t, errdefs.IsInvalidArgument(ref.Extract(ctx, nil)))
		requireUsage(t, env, 0, 0)

		require.Empty(t, prune(t, env, usage.PruneInfo{All: true}))
		require.NoError(t, env.GC(ctx))
		requireDead(t, env, ref)
		_, _, err = mountable.Mount()
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		require.False(t, errdefs.IsNotFound(err))
	}, usedAfterRelease)
}
