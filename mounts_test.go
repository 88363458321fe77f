package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/usage"
)

// requireReadOnly mounts a ref, really, and checks that the kernel lets nobody write.
func requireReadOnly(t *testing.T, ref cache.Mountable, readonly bool) {
	t.Helper()
	m, err := ref.Mount(ctx, readonly, nil)
	require.NoError(t, err)
	mounter := snapshot.LocalMounter(m, snapshot.ForceRemount())
	dir, err := mounter.Mount()
	require.NoError(t, err)
	err = os.WriteFile(filepath.Join(dir, "intruder"), nil, 0o600)
	require.NoError(t, mounter.Unmount())
	require.Error(t, err)
	require.ErrorContains(t, err, "read-only file system")
}

// Scenario S-22, spec MNT-2, MNT-3, MNT-5, MNT-6: what can be written to and what cannot, with and without a parent.
func TestWritableAndReadOnlyMounts(t *testing.T) {
	need.Mount(t)
	for _, name := range []string{"native", "overlay"} {
		for what, withParent := range map[string]bool{"base": false, "child": true} {
			t.Run(name+" "+what, func(t *testing.T) {
				env := testutil.New(t, backends[name]...)
				var parent cache.ImmutableRef
				if withParent {
					parent = finalized(t, env, nil, fileIn(t, "below", "lower"))
				}
				mut := newMutable(t, env, parent)
				testutil.WithMount(t, mut, false, fileIn(t, "f", "one"))
				requireReadOnly(t, mut, true)
				testutil.WithMount(t, mut, false, fileIn(t, "f", "two"))
				requireFile(t, mut, "f", "two")

				imm := commit(t, mut)
				requireReadOnly(t, imm, true)
				_, pair := imm.GetEqualMutable()
				require.True(t, pair, "to be looked at, a record need not be finalized")
				requireReadOnly(t, imm, false)
				_, pair = imm.GetEqualMutable()
				require.False(t, pair, "a writable mount of an immutable ref finalizes")
				requireReadOnly(t, imm, true)
				requireFile(t, imm, "f", "two")
				if withParent {
					requireFile(t, imm, "below", "lower")
					release(t, parent)
				}
				release(t, imm)
			})
		}
	}
}

// mountsOf returns the list of a mountable, released.
func mountsOf(t *testing.T, m snapshot.Mountable) []mount.Mount {
	t.Helper()
	mounts, done, err := m.Mount()
	require.NoError(t, err)
	require.NotEmpty(t, mounts)
	require.NoError(t, done())
	return mounts
}

// Spec MNT-1: what is done to a mount list changes no other.
func TestMountListsAreCopies(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := finalized(t, env, nil, nil)
		mut := newMutable(t, env, imm)
		for _, ref := range []cache.Ref{imm, mut} {
			for _, readonly := range []bool{true, false} {
				m, err := ref.Mount(ctx, readonly, nil)
				require.NoError(t, err)
				_, done, err := m.Mount() // or each would be a shared mount of its own
				require.NoError(t, err)
				want, spoilt := mountsOf(t, m), mountsOf(t, m)
				spoilt[0].Source = "/etc"
				for i := range spoilt[0].Options {
					spoilt[0].Options[i] = "bad"
				}
				require.Equal(t, want, mountsOf(t, m))
				again, err := ref.Mount(ctx, readonly, nil)
				require.NoError(t, err)
				require.Equal(t, want, mountsOf(t, again))
				require.Nil(t, m.IdentityMapping())
				require.NoError(t, done())
			}
		}
		release(t, imm, mut)
	})
}

// Spec MNT-2, MNT-7, REF-6: a finalized record is mounted as a view under a lease of its own, made
// once for all refs, kept as long as there is one, and gone with the last.
func TestViews(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := finalized(t, env, nil, fileIn(t, "f", "data"))
		view := imm.ID() + "-view"
		env.Faults.Reset()
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			ref := imm.Clone()
			wg.Go(func() {
				if _, errs[i] = ref.Mount(ctx, i%2 == 0, nil); errs[i] == nil {
					errs[i] = ref.Release(ctx)
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotView))
		require.Zero(t, env.Faults.Count(fault.OpSnapshotMounts), "View's own answer is used")
		require.Equal(t, 1, env.Manager.Stats().Mounts)
		require.NoError(t, env.GC(ctx))
		require.ElementsMatch(t, []string{imm.ID(), view}, snapshotNames(t, env))
		requireFile(t, imm, "f", "data")

		other := get(t, env, imm.ID())
		release(t, imm)
		require.Contains(t, leaseIDs(t, env), view)
		release(t, other)
		require.Zero(t, env.Manager.Stats().Mounts)
		require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{imm.ID()}, snapshotNames(t, env))

		again := get(t, env, imm.ID())
		requireFile(t, again, "f", "data")
		release(t, again)
	})
}

// Spec MNT-2, LEASE-7: a view that is there already, and its lease, are used as they are.
func TestViewThatIsThereAlready(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := finalized(t, env, nil, fileIn(t, "f", "data"))
		view := imm.ID() + "-view"
		_, err := env.Opt.LeaseManager.Create(ctx, leases.WithID(view))
		require.NoError(t, err)
		require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leases.Lease{ID: view},
			leases.Resource{ID: view, Type: "snapshots/" + env.Opt.Snapshotter.Name()}))
		_, err = env.Opt.Snapshotter.View(ctx, view, imm.ID())
		require.NoError(t, err)
		requireFile(t, imm, "f", "data")
		release(t, imm)
		require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
	})
}

// Spec MNT-7: mounts of the snapshot that was written to are not handed out once it is committed.
func TestFinalizeInvalidatesMounts(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil)
		testutil.WithMount(t, mut, false, fileIn(t, "f", "data"))
		env.Faults.Reset()
		imm := commit(t, mut)
		requireFile(t, imm, "f", "data")
		require.Zero(t, env.Faults.Count("snapshots.*"), "the mounts of the same snapshot are remembered")
		require.Equal(t, 1, env.Manager.Stats().Mounts)
		require.NoError(t, imm.Finalize(ctx))
		require.Zero(t, env.Manager.Stats().Mounts)
		requireFile(t, imm, "f", "data")
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotView))
		require.Contains(t, snapshotNames(t, env), imm.ID()+"-view")
		release(t, imm)
	})
}

// Spec REF-6, quirk Q27: the end of a ref to a record that was never mounted costs no backend call.
func TestReleaseWithoutMount(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		layer := finalized(t, env, nil, nil)
		release(t, layer)
		env.Faults.Reset()
		ref := get(t, env, layer.ID())
		release(t, ref.Clone(), ref)
		require.Zero(t, env.Faults.Len(), "%s", env.Faults.Trace())
	})
}

// Spec REF-6: if the view's lease cannot be deleted the caller is told, the mount is forgotten all the
// same, and the record is as good as before.
func TestReleaseFailsToDropTheView(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := finalized(t, env, nil, fileIn(t, "f", "data"))
		requireFile(t, imm, "f", "data")
		env.Faults.FailOp(fault.OpLeaseDelete, errBackend)
		err := imm.Release(ctx)
		require.ErrorIs(t, err, errBackend)
		require.Contains(t, err.Error(), imm.ID())
		require.NoError(t, imm.Release(ctx), "it is released")
		require.Equal(t, cache.Stats{Records: 1}, env.Manager.Stats())
		env.Faults.Reset()
		requireNextMountCleansUp(t, env, imm.ID())
	})
}

// Spec MNT-4: a mount that fails leaves no view lease, wherever it fails, and can be tried again.
func TestFailedMount(t *testing.T) {
	eachFault(t, errBackend, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
		imm := finalized(t, env, nil, fileIn(t, "f", "data"))
		var m snapshot.Mountable
		act := func() (err error) {
			m, err = imm.Mount(ctx, true, nil)
			return err
		}
		return act, func(t *testing.T, err error) {
			if err != nil {
				require.ErrorIs(t, err, errBackend)
				require.Contains(t, err.Error(), imm.ID())
				require.Nil(t, m)
				require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
				require.Zero(t, env.Manager.Stats().Mounts)
			}
			require.NoError(t, env.GC(ctx))
			requireFile(t, imm, "f", "data")
			release(t, imm)
			require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
		}
	})
}

// Spec MNT-5: all mounts of a mutable ref share one mountable, which goes with the ref.
func TestMutableMountIsShared(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		env.Faults.Reset()
		for range 3 {
			_, err := mut.Mount(ctx, false, session.NewGroup("s"))
			require.NoError(t, err)
			_, err = mut.Mount(ctx, true, nil)
			require.NoError(t, err)
		}
		require.Equal(t, 1, env.Faults.Count(fault.OpSnapshotMounts))
		require.Equal(t, 1, env.Manager.Stats().Mounts)
		release(t, mut)
		require.Zero(t, env.Manager.Stats().Mounts)
	})
}

// Spec MNT-5, MNT-7: a failing backend is reported with the record's ID, and not remembered.
func TestFailedMutableMount(t *testing.T) {
	eachFault(t, errBackend, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
		mut := newMutable(t, env, nil)
		var m snapshot.Mountable
		act := func() (err error) {
			m, err = mut.Mount(ctx, false, nil)
			return err
		}
		return act, func(t *testing.T, err error) {
			if err != nil {
				require.ErrorIs(t, err, errBackend)
				require.Contains(t, err.Error(), mut.ID())
				require.Nil(t, m)
				require.Zero(t, env.Manager.Stats().Mounts)
			}
			testutil.WithMount(t, mut, false, fileIn(t, "f", "data"))
			release(t, mut)
		}
	})
}

// Fault 26: a waiter for a record on which the backend hangs can give up, others are not held up, and
// the holder is not disturbed.
func TestMountOfABusyRecord(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	imm, other := finalized(t, env, nil, fileIn(t, "f", "data")), finalized(t, env, nil, nil)
	stuck := env.Faults.Block(fault.Match{Op: fault.OpSnapshotView, Key: imm.ID() + "*", When: fault.Before})
	done := make(chan error, 1)
	go func() {
		_, err := imm.Mount(ctx, true, nil)
		done <- err
	}()
	<-stuck.Entered()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	m, err := imm.Mount(ended, true, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Nil(t, m)
	testutil.WithMount(t, other, true, func(string) {})
	stuck.Release()
	require.NoError(t, <-done)
	requireFile(t, imm, "f", "data")
	release(t, imm, other)
}

// Spec API-3: a snapshot that was lost behind the cache's back is the backend's "not found", not an
// unknown record, and the record can be pruned.
func TestMountOfALostSnapshot(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	imm := finalized(t, env, nil, nil)
	require.NoError(t, env.Double.LoseSnapshot(imm.ID()))
	m, err := imm.Mount(ctx, true, nil)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.False(t, cache.IsNotFound(err), "%v", err)
	require.Nil(t, m)
	_, err = env.Manager.New(ctx, imm, nil)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.False(t, cache.IsNotFound(err), "%v", err)
	release(t, imm)
	require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
}
