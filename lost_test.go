package cache_test

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// loseSnapshots has snapshots deleted behind the cache's back; its leases still list them afterwards.
func loseSnapshots(t *testing.T, env *testutil.Env, names ...string) {
	t.Helper()
	lose(t, env, "snapshots/"+env.Opt.Snapshotter.Name(), names...)
	for _, name := range names {
		require.NotContains(t, snapshotNames(t, env), name)
	}
}

// loseBlob has a blob deleted behind the cache's back.
func loseBlob(t *testing.T, env *testutil.Env, d digest.Digest) {
	t.Helper()
	lose(t, env, "content", d.String())
	require.NotContains(t, blobNames(t, env), d.String())
}

// lose takes resources out of all leases while garbage is collected.
func lose(t *testing.T, env *testutil.Env, kind string, ids ...string) {
	t.Helper()
	env.Faults.Quietly(func() {
		lm := env.Opt.LeaseManager
		ls, err := lm.List(ctx)
		require.NoError(t, err)
		taken := map[string][]leases.Resource{}
		for _, l := range ls {
			listed, err := lm.ListResources(ctx, l)
			require.NoError(t, err)
			for _, res := range listed {
				if res.Type == kind && slices.Contains(ids, res.ID) {
					require.NoError(t, lm.DeleteResource(ctx, l, res))
					taken[l.ID] = append(taken[l.ID], res)
				}
			}
		}
		require.NoError(t, env.GC(ctx))
		for id, resources := range taken {
			for _, res := range resources {
				require.NoError(t, lm.AddResource(ctx, leaseNamed(id), res))
			}
		}
	})
}

// TestLostSnapshots are unpacked again from what is there, whichever of a chain are gone, and by whatever asks for them.
func TestLostSnapshots(t *testing.T) { // faults 8 and 9, spec EXT-1, EXT-10, quirk Q33
	for name, use := range map[string]func(t *testing.T, env *testutil.Env, top cache.ImmutableRef){
		"Extract": func(t *testing.T, _ *testutil.Env, top cache.ImmutableRef) { require.NoError(t, top.Extract(ctx, nil)) },
		"Mount":   func(t *testing.T, _ *testutil.Env, top cache.ImmutableRef) { requireFile(t, top, "filea", "x") },
		"New":     func(t *testing.T, env *testutil.Env, top cache.ImmutableRef) { release(t, newMutable(t, env, top)) },
	} {
		for lost := 1; lost <= 3; lost++ {
			t.Run(name+string(rune('0'+lost)), func(t *testing.T) {
				eachBackend(t, func(t *testing.T, env *testutil.Env) {
					r := newRegistry()
					descs, refs := chainOf(t, env, r, 3)
					top := refs[2]
					require.NoError(t, top.Extract(ctx, nil))
					var gone []string
					for i := 2; i > 2-lost; i-- {
						gone = append(gone, refs[i].GetString("cache.snapshot"))
					}
					loseSnapshots(t, env, gone...)
					use(t, env, top)
					require.NoError(t, env.GC(ctx))
					for _, s := range gone {
						require.Contains(t, snapshotNames(t, env), s)
					}
					for i, file := range []string{"filea", "fileb", "filec"} {
						requireFile(t, top, file, "x")
						require.Equal(t, 1, r.opened(descs[i].Digest), "the blobs are still there")
					}
					for _, ref := range refs {
						release(t, ref)
					}
				})
			})
		}
	}
}

// TestLostSnapshotAndBlob: the blob is pulled again where somebody knows how; where nobody does, the error names record and digest, and all
// else can be used as before.
func TestLostSnapshotAndBlob(t *testing.T) { // faults 8 and 9, spec EXT-10, API-3, quirk Q36
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 3)
		other := byBlob(t, env, r, r.layer(t, "gzip", tree.File("other", "x")), refs[0])
		require.NoError(t, refs[2].Extract(ctx, nil))
		require.NoError(t, other.Extract(ctx, nil))
		loseSnapshots(t, env, refs[2].GetString("cache.snapshot"), refs[1].GetString("cache.snapshot"))
		loseBlob(t, env, descs[1].Digest)

		plain := get(t, env, refs[2].ID(), cache.NoUpdateLastUsed)
		err := plain.Extract(ctx, nil)
		var layer *cache.LayerError
		require.ErrorAs(t, err, &layer)
		require.Equal(t, [2]string{refs[1].ID(), descs[1].Digest.String()}, [2]string{layer.Record, layer.Digest.String()})
		require.ErrorContains(t, err, refs[1].ID())
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, err, &missing)
		require.Equal(t, cache.NeedsRemoteProviderError{descs[1].Digest}, missing)
		release(t, plain)
		requireFile(t, refs[0], "filea", "x")
		requireFile(t, other, "other", "x")

		require.NoError(t, refs[2].Extract(ctx, nil))
		require.Equal(t, 2, r.opened(descs[1].Digest))
		requireFile(t, refs[2], "fileb", "x")
		release(t, refs[0], refs[1], refs[2], other)
	})
}

// TestLostForGood: a layer without a blob cannot be made again. That is told, and the record can be dropped.
func TestLostForGood(t *testing.T) { // fault 8, spec EXT-10
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		built := finalized(t, env, nil, fileIn(t, "f", "x"))
		child := finalized(t, env, built, nil)
		loseSnapshots(t, env, child.ID())
		err := child.Extract(ctx, nil)
		require.ErrorContains(t, err, "no blob available")
		require.ErrorIs(t, err, cache.ErrNotExtracted)
		var layer *cache.LayerError
		require.ErrorAs(t, err, &layer)
		require.Equal(t, child.ID(), layer.Record)
		requireFile(t, built, "f", "x")
		release(t, child, built)
		forget(t, env, child.ID())
	})
}

// TestLostBlob of an extracted layer is not missed before it is needed, and then pulled again.
func TestLostBlob(t *testing.T) { // fault 9, spec REF-20
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 2)
		require.NoError(t, refs[1].Extract(ctx, nil))
		loseBlob(t, env, descs[1].Digest)
		plain := get(t, env, refs[1].ID())
		requireFile(t, plain, "fileb", "x")
		_, err := plain.FileList(ctx, nil)
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, err, &missing)
		names, err := refs[1].FileList(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"fileb"}, names)
		require.Equal(t, 2, r.opened(descs[1].Digest))
		release(t, plain, refs[0], refs[1])
	})
}

// TestLostLease: a lazy record whose lease was taken away and whose blob was collected with it is pulled again, and then leased again.
func TestLostLease(t *testing.T) { // fault 9, spec EXT-8, LEASE-7
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 2)
		_, err := refs[1].FileList(ctx, nil)
		require.NoError(t, err)
		for _, id := range leaseIDs(t, env) {
			require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leaseNamed(id)))
		}
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
		require.NoError(t, refs[1].Extract(ctx, nil))
		require.NoError(t, env.GC(ctx))
		require.Equal(t, 2, r.opened(descs[1].Digest))
		require.Len(t, snapshotNames(t, env), 2)
		require.Subset(t, leaseIDs(t, env), []string{refs[0].ID(), refs[1].ID()})
		requireFile(t, refs[1], "filea", "x")
		release(t, refs[0], refs[1])
	})
}

// TestLostLeaseIsWholeAgain: a lease that is made anew lists what it did, even if making it failed half way the first time, be it that
// only the answer was lost.
func TestLostLeaseIsWholeAgain(t *testing.T) { // fault 9, spec EXT-8, LEASE-7, REF-12
	for what, at := range map[string]fault.Match{
		"Create":      {Op: fault.OpLeaseCreate, When: fault.After},
		"AddResource": {Op: fault.OpLeaseAddResource, When: fault.Before},
	} {
		t.Run(what, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				descs, refs := chainOf(t, env, r, 1)
				_, err := refs[0].FileList(ctx, nil)
				require.NoError(t, err)
				id := refs[0].ID()
				listed := func() []leases.Resource {
					rs, err := env.Opt.LeaseManager.ListResources(ctx, leaseNamed(id))
					require.NoError(t, err)
					return rs
				}
				before := listed()
				require.NotEmpty(t, before)
				require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leaseNamed(id)))
				at.Key, at.Times = id, 1
				lost := env.Faults.Inject(at, fault.Fail(errdefs.ErrUnavailable))
				require.True(t, errdefs.IsUnavailable(refs[0].Extract(ctx, nil)))
				require.Equal(t, 1, lost.Fired())
				require.NoError(t, refs[0].Extract(ctx, nil))
				require.ElementsMatch(t, before, listed())
				require.NoError(t, env.GC(ctx))
				require.Equal(t, 1, r.opened(descs[0].Digest), "other leases kept the blob")
				requireFile(t, refs[0], "filea", "x")
				release(t, refs[0])
			})
		})
	}
}

// TestLazyRestart: a lazy record is there after any number of restarts, cannot be opened without a handler, and what it is extracted into stays
// as long as it is held.
func TestLazyRestart(t *testing.T) { // scenario S-25, spec INIT-4, INIT-10, REC-5, MGR-8, faults 1 and 3, quirk Q75
	for _, how := range []string{"closed", "crashed"} {
		t.Run(how, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				restart := env.Reopen
				if how == "crashed" {
					restart = func() { env.Crash(); env.Open() }
				}
				r := newRegistry()
				descs, refs := chainOf(t, env, r, 2)
				release(t, refs[0], refs[1])
				held := leaseIDs(t, env)
				for range 2 {
					restart()
					require.NoError(t, env.GC(ctx))
					require.Equal(t, 2, rowCount(t, env))
					require.Equal(t, held, leaseIDs(t, env))
					_, err := env.Manager.Get(ctx, refs[1].ID(), nil)
					var missing cache.NeedsRemoteProviderError
					require.ErrorAs(t, err, &missing)
					require.ElementsMatch(t, cache.NeedsRemoteProviderError{descs[0].Digest, descs[1].Digest}, missing)
					_, err = env.Manager.Get(ctx, refs[1].ID(), nil, r.handlers(descs[1]))
					require.ErrorAs(t, err, &missing)
					require.Equal(t, cache.NeedsRemoteProviderError{descs[0].Digest}, missing)
				}
				top := get(t, env, refs[1].ID(), r.allHandlers())
				again := byBlob(t, env, r, descs[0], nil)
				require.Equal(t, refs[0].ID(), again.ID(), "it is found by its blob, too")
				release(t, again)
				require.NoError(t, top.Extract(ctx, nil))
				require.NoError(t, env.GC(ctx))
				require.ElementsMatch(t, []string{layerSnapshot(diffIDOf(descs[0])), layerSnapshot(fold(diffIDOf(descs[0]), diffIDOf(descs[1])))}, snapshotNames(t, env))
				requireFile(t, top, "filea", "x")

				release(t, top)
				restart()
				plain := get(t, env, refs[1].ID()) // it is not lazy any more
				requireFile(t, plain, "fileb", "x")
				release(t, plain)
			})
		})
	}
}

// TestParentAfterRestart of a held child stays, also when it was lazy before.
func TestParentAfterRestart(t *testing.T) { // fault 2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		_, refs := chainOf(t, env, r, 2)
		release(t, refs[0], refs[1])
		env.Reopen()
		top := get(t, env, refs[1].ID(), r.allHandlers())
		require.Empty(t, prune(t, env, pruneAll))
		require.NoError(t, env.GC(ctx))
		requireFile(t, top, "filea", "x")
		release(t, top)
	})
}

// TestStorageErrorsAreNotLaziness: only a blob that is not there makes a record lazy.
func TestStorageErrorsAreNotLaziness(t *testing.T) { // spec REC-5, MGR-23
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		ref := ofLocalBlob(t, env, r, desc)
		for _, op := range []string{"content.Info", "snapshots.Stat"} {
			env.Faults.Reset()
			env.Faults.FailOp(op, errdefs.ErrUnavailable)
			_, err := env.Manager.Get(ctx, ref.ID(), nil)
			require.True(t, errdefs.IsUnavailable(err), "%s: %v", op, err)
		}
		env.Faults.Reset()
		requireUsage(t, env, 1, 0)
		release(t, ref)
		requireUsage(t, env, 0, 1)
	})
}

// forget prunes a record that Check would complain about.
func forget(t *testing.T, env *testutil.Env, id string) {
	t.Helper()
	infos := prune(t, env, pruneAll)
	require.True(t, slices.ContainsFunc(infos, func(info usage.Info) bool { return info.ID == id }))
}
