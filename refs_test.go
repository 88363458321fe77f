package cache_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

var errBackend = errors.New("the backend failed")

// The two kinds of refs cannot be taken for each other, not even by a type assertion; spec API-1, section 3.
func TestMethodSets(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	mut := newMutable(t, env, nil)
	var v any = mut
	_, ok := v.(cache.ImmutableRef)
	require.False(t, ok)
	for name, ok := range map[string]bool{
		"Clone":      is[interface{ Clone() cache.ImmutableRef }](v),
		"Finalize":   is[interface{ Finalize(context.Context) error }](v),
		"LayerChain": is[interface{ LayerChain() cache.RefList }](v),
	} {
		require.False(t, ok, name)
	}
	imm := commit(t, mut)
	v = imm
	require.False(t, is[cache.MutableRef](v))
	require.False(t, is[interface {
		Commit(context.Context) (cache.ImmutableRef, error)
	}](v))
	release(t, imm)
}

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

// useCounts are the ways in which refs end. start is a finalized layer with one use so far, want the uses after fn.
var useCounts = []struct {
	rule string
	want int
	fn   func(t *testing.T, env *testutil.Env, id string)
}{
	{"REF-3: two refs are one use, at the second release", 2, func(t *testing.T, env *testutil.Env, id string) {
		a, b := get(t, env, id), get(t, env, id)
		release(t, a)
		require.Equal(t, 1, usageByID(t, env)[id].UsageCount)
		release(t, b)
	}},
	{"REF-3: one after the other are two uses", 3, func(t *testing.T, env *testutil.Env, id string) {
		release(t, get(t, env, id))
		release(t, get(t, env, id))
	}},
	{"REF-3: a clone that stays does not defer the use", 2, func(t *testing.T, env *testutil.Env, id string) {
		ref := get(t, env, id)
		clone := ref.Clone()
		release(t, ref)
		require.Equal(t, 2, usageByID(t, env)[id].UsageCount)
		env.Clock.Advance(time.Hour)
		release(t, clone)
	}},
	{"REF-1: a clone that goes is no use", 2, func(t *testing.T, env *testutil.Env, id string) {
		ref := get(t, env, id)
		release(t, ref.Clone(), ref.Clone().Clone())
		require.Equal(t, 1, usageByID(t, env)[id].UsageCount)
		release(t, ref)
	}},
	{"REF-2: a ref that is not to count does not", 1, func(t *testing.T, env *testutil.Env, id string) {
		ref := get(t, env, id, cache.NoUpdateLastUsed)
		release(t, ref.Clone(), ref)
	}},
	{"REF-3: a ref that does not count defers nothing", 2, func(t *testing.T, env *testutil.Env, id string) {
		silent, ref := get(t, env, id, cache.NoUpdateLastUsed), get(t, env, id)
		release(t, ref)
		require.Equal(t, 2, usageByID(t, env)[id].UsageCount)
		env.Clock.Advance(time.Hour)
		release(t, silent)
	}},
	{"REF-5, quirk Q26: a second release is no use", 2, func(t *testing.T, env *testutil.Env, id string) {
		ref := get(t, env, id)
		release(t, ref)
		at := env.Clock.Now()
		env.Clock.Advance(time.Hour)
		env.Faults.Reset()
		release(t, ref, ref)
		require.Zero(t, env.Faults.Len())
		require.Equal(t, at.UnixNano(), usageByID(t, env)[id].LastUsedAt.UnixNano())
	}},
	{"REF-2, S-31, quirk Q73: children and what operations hold are no uses", 1, func(t *testing.T, env *testutil.Env, id string) {
		parent := get(t, env, id, cache.NoUpdateLastUsed)
		child := finalized(t, env, parent, nil)
		testutil.WithMount(t, parent, true, func(string) {})
		require.NoError(t, child.LayerChain().Release(ctx))
		require.NoError(t, parent.Finalize(ctx))
		release(t, child, parent)
		env.Reopen()
		require.Len(t, prune(t, env, usage.PruneInfo{Filter: []string{"id==" + child.ID()}}), 1)
	}},
}

// Spec REF-1 to REF-5: what counts as a use, and when.
// Quirk Q26: releasing twice is no second use.
func TestUseCounts(t *testing.T) {
	for _, c := range useCounts {
		t.Run(c.rule, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles())
			layer := finalized(t, env, nil, nil)
			id := layer.ID()
			require.Nil(t, usageByID(t, env)[id].LastUsedAt, "never used")
			env.Clock.Advance(time.Minute)
			release(t, layer) // spec REF-2: the ref of Commit counts
			first := env.Clock.Now()
			env.Clock.Advance(time.Minute)

			c.fn(t, env, id)
			got := usageByID(t, env)[id]
			require.Equal(t, c.want, got.UsageCount)
			if c.want == 1 {
				require.Equal(t, first.UnixNano(), got.LastUsedAt.UnixNano())
			} else {
				require.Greater(t, got.LastUsedAt.UnixNano(), first.UnixNano())
			}
			env.Reopen() // what was counted is written on an orderly end
			require.Equal(t, c.want, usageByID(t, env)[id].UsageCount)
		})
	}
}

// Spec REF-4, REF-8: a use of the immutable half of a pair that stays is one of its mutable half, too.
func TestUsesOfAPair(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	mutID, clone := mutableID(t, env, imm), imm.Clone()
	env.Clock.Advance(time.Minute)
	release(t, imm)
	require.Equal(t, 1, usageByID(t, env)[imm.ID()].UsageCount, "the triggering ref has gone")
	env.Clock.Advance(time.Minute)
	release(t, clone)
	pair := usageByID(t, env)[mutID]
	require.Equal(t, 1, pair.UsageCount)
	require.Equal(t, env.Clock.Now().UnixNano(), pair.LastUsedAt.UnixNano(), "used until the last ref went")

	release(t, get(t, env, imm.ID(), cache.NoUpdateLastUsed))
	require.Equal(t, 1, usageByID(t, env)[mutID].UsageCount)
	release(t, get(t, env, imm.ID()))
	require.Equal(t, 2, usageByID(t, env)[mutID].UsageCount)
	env.Reopen()
	ref := get(t, env, imm.ID(), cache.NoUpdateLastUsed)
	require.Equal(t, 2, usageByID(t, env)[imm.ID()].UsageCount)
	release(t, ref)
}

// Spec REF-7, REF-8, REF-8a: what was never finalized stays if either half is retained at the time of the last release.
func TestRetention(t *testing.T) {
	retain, dflt := cache.RefMetadata.SetCachePolicyRetain, cache.RefMetadata.SetCachePolicyDefault
	type set = func(cache.RefMetadata) error
	for _, c := range []struct {
		name     string
		opt      cache.RefOption
		mut, imm set
		finalize bool
		stays    bool
	}{
		{name: "neither", opt: cache.CachePolicyDefault},
		{name: "mutable", opt: cache.CachePolicyRetain, stays: true},
		{name: "mutable, set later", opt: cache.CachePolicyDefault, mut: retain, stays: true},
		{name: "mutable, taken back", opt: cache.CachePolicyRetain, mut: dflt},
		{name: "immutable", opt: cache.CachePolicyDefault, imm: retain, stays: true},
		{name: "both", opt: cache.CachePolicyRetain, imm: retain, stays: true},
		{name: "mutable only, immutable set to default", opt: cache.CachePolicyRetain, imm: dflt, stays: true},
		{name: "finalized, neither", opt: cache.CachePolicyDefault, finalize: true, stays: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles())
			parent := finalized(t, env, nil, nil)
			mut := newMutable(t, env, parent, c.opt)
			release(t, parent)
			imm := commit(t, mut)
			md, ok := imm.GetEqualMutable()
			require.True(t, ok)
			if c.mut != nil {
				require.NoError(t, c.mut(md))
			}
			if c.imm != nil {
				require.NoError(t, c.imm(imm))
			}
			if c.finalize {
				require.NoError(t, imm.Finalize(ctx))
			}
			release(t, imm)
			if !c.stays {
				requireUsage(t, env, 0, 1)
				require.Equal(t, []string{parent.ID()}, leaseIDs(t, env))
				require.Len(t, prune(t, env, usage.PruneInfo{}), 1, "the parent was let go")
				return
			}
			requireUsage(t, env, 0, 2)
			id := imm.ID()
			if !c.finalize {
				id = mut.ID()
			}
			require.Equal(t, 1, usageByID(t, env)[id].UsageCount)
			env.Reopen()
			release(t, get(t, env, imm.ID(), cache.NoUpdateLastUsed))
			requireUsage(t, env, 0, 2)
			require.Len(t, prune(t, env, usage.PruneInfo{}), 2)
		})
	}
}

// Spec REF-1: a released ref can be cloned while its record lives, and only that long.
func TestCloneOfAReleasedRef(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		dhs := cache.DescHandlers{digest.FromString("x"): {Ref: "origin"}}
		layer := finalized(t, env, nil, fileIn(t, "f", "data"))
		release(t, layer)
		ref := get(t, env, layer.ID(), dhs)
		release(t, ref)
		clone := ref.Clone()
		requireUsage(t, env, 1, 0)
		require.Same(t, dhs[digest.FromString("x")], clone.DescHandler(digest.FromString("x")), "REF-21")
		require.Nil(t, clone.DescHandler(digest.FromString("y")))
		require.Empty(t, prune(t, env, usage.PruneInfo{All: true}))
		requireFile(t, clone, "f", "data")
		release(t, clone)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 1)
		requireDead(t, env, clone.Clone())
	})
}

// requireDead checks that a ref is of no use any more, and harmless.
func requireDead(t *testing.T, env *testutil.Env, ref cache.ImmutableRef) {
	t.Helper()
	require.Zero(t, env.Manager.Stats().Refs)
	_, err := ref.Mount(ctx, true, nil)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	err = ref.Finalize(ctx)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	child, err := env.Manager.New(ctx, ref, nil)
	require.True(t, cache.IsNotFound(err), "%v", err)
	require.Nil(t, child)
	require.True(t, cache.IsNotFound(ref.SetDescription("x")))
	require.Empty(t, ref.GetDescription())
	release(t, ref, ref)
	require.NoError(t, ref.LayerChain().Release(ctx))
	require.Zero(t, env.Manager.Stats().Refs)
}

// Spec REF-1, MGR-14: a ref to a half that GetMutable took back cannot be revived as one to what was
// written and committed since.
func TestCloneOfARefToATakenBackHalf(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	old := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "old"), cache.CachePolicyRetain)
	mutID := mutableID(t, env, old)
	release(t, old)
	mut, err := env.Manager.GetMutable(ctx, mutID)
	require.NoError(t, err)
	testutil.WithMount(t, mut, false, fileIn(t, "f", "new"))
	imm := commit(t, mut)

	clone := old.Clone()
	require.Equal(t, 1, env.Manager.Stats().Refs)
	_, err = clone.Mount(ctx, true, nil)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	for _, layer := range old.LayerChain() {
		require.NotEqual(t, imm.ID(), layer.ID())
		release(t, layer)
	}
	require.Equal(t, 1, env.Manager.Stats().Refs)
	release(t, clone, imm)
}

// Scenario S-24, spec REF-16, REF-17, quirk Q31: a mutable ref ends once.
func TestMutableRefEndsOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		requireOver := func(ref cache.MutableRef) {
			t.Helper()
			imm, err := ref.Commit(ctx)
			require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
			require.Contains(t, err.Error(), ref.ID())
			require.Nil(t, imm)
			m, err := ref.Mount(ctx, false, nil)
			require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
			require.Nil(t, m)
			require.NoError(t, ref.Release(ctx))
		}
		released := newMutable(t, env, nil, cache.CachePolicyRetain)
		release(t, released)
		requireOver(released)

		mut := newMutable(t, env, nil, cache.CachePolicyRetain)
		imm := commit(t, mut)
		requireOver(mut)
		require.Equal(t, 3, rowCount(t, env))
		requireUsage(t, env, 1, 1)
		release(t, imm, imm)

		again, err := env.Manager.GetMutable(ctx, mut.ID())
		require.NoError(t, err)
		requireOver(mut)
		_, err = env.Manager.GetMutable(ctx, mut.ID())
		require.ErrorIs(t, err, cache.ErrLocked, "an old ref's release ends no other's claim")
		require.NoError(t, again.SetCachePolicyDefault())
		release(t, again)
		requireOver(again)
		require.Equal(t, 1, rowCount(t, env))
	})
}

// Spec REF-15, section 1.3: what Commit hands on, and what stays behind with the mutable half.
func TestCommitCopies(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	dhs := cache.DescHandlers{digest.FromString("x"): {Ref: "origin"}}
	layer := finalized(t, env, nil, nil)
	parent := get(t, env, layer.ID(), dhs)
	release(t, layer)
	mut := newMutable(t, env, parent, cache.CachePolicyRetain, cache.WithDescription("d"),
		cache.WithRecordType(usage.TypeFrontend), cache.WithImageRef("img"))
	require.NoError(t, mut.SetLayerType("windows"))
	require.NotNil(t, mut.DescHandler(digest.FromString("x")), "MGR-4: the parent's handlers")
	env.Clock.Advance(time.Minute)
	imm := commit(t, mut)
	require.NotEqual(t, mut.ID(), imm.ID())
	require.NotNil(t, imm.DescHandler(digest.FromString("x")))
	require.Equal(t, "d", imm.GetDescription())
	require.Equal(t, env.Clock.Now().UnixNano(), imm.GetCreatedAt().UnixNano())
	require.Empty(t, imm.GetRecordType())
	require.Empty(t, imm.GetLayerType())
	require.True(t, imm.HasCachePolicyDefault())
	item, ok := env.Opt.MetadataStore.Get(imm.ID())
	require.True(t, ok)
	require.ElementsMatch(t, []string{
		"cache.createdAt", "cache.parent", "cache.description", "snapshot.committed", "snapshot.size",
		"cache.snapshot", "cache.equalMutable", "layercache.unsynced",
	}, item.Keys())
	release(t, parent, imm)
}

// Spec REF-18, quirk Q19: a Commit that fails leaves the mutable ref as it was, and nothing else.
func TestFailedCommit(t *testing.T) {
	eachFault(t, errBackend, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
		parent := finalized(t, env, nil, nil)
		mut := newMutable(t, env, parent)
		release(t, parent)
		var imm cache.ImmutableRef
		act := func() (err error) {
			imm, err = mut.Commit(ctx)
			return err
		}
		return act, func(t *testing.T, err error) {
			if err != nil {
				require.ErrorIs(t, err, errBackend)
				require.Nil(t, imm)
				require.Equal(t, 2, rowCount(t, env))
				require.Equal(t, 1, env.Manager.Stats().Refs)
				imm = commit(t, mut)
			}
			require.Equal(t, 3, rowCount(t, env))
			release(t, imm)
			require.Equal(t, 1, rowCount(t, env))
			require.Len(t, prune(t, env, usage.PruneInfo{}), 1, "the parent is held by nothing")
		}
	})
}

// Spec REF-9, quirk Q28: however the removal of a record fails, its parent is let go once, and what is
// left can be pruned.
func TestFailedRemoval(t *testing.T) {
	for name, sealed := range map[string]bool{"mutable": false, "pair": true} {
		t.Run(name, func(t *testing.T) {
			eachFault(t, errBackend, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
				parent := finalized(t, env, nil, nil)
				sibling := newMutable(t, env, parent)
				mut := newMutable(t, env, parent)
				var doomed cache.Ref = mut
				if sealed {
					doomed = commit(t, mut)
				}
				release(t, parent)
				act := func() error { return doomed.Release(ctx) }
				return act, func(t *testing.T, err error) {
					if err != nil {
						require.ErrorIs(t, err, errBackend)
						require.Contains(t, err.Error(), doomed.ID())
					}
					release(t, doomed)
					prune(t, env, usage.PruneInfo{All: true})
					require.Equal(t, 2, rowCount(t, env), "the sibling keeps the parent")
					release(t, sibling)
					require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 1)
					require.Zero(t, rowCount(t, env))
					require.Empty(t, leaseIDs(t, env))
					require.Empty(t, snapshotNames(t, env))
				}
			})
		})
	}
}

// Spec REF-19, WALK-1: a layer chain is a ref to every layer, bottom first, and ends as a whole.
func TestLayerChain(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		a := testutil.MakeLayer(t, env, nil, nil)
		b := testutil.MakeLayer(t, env, a, nil)
		c := testutil.MakeLayer(t, env, b, nil)
		chain := c.LayerChain()
		require.Len(t, chain, 3)
		for i, want := range []cache.ImmutableRef{a, b, c} {
			require.Equal(t, want.ID(), chain[i].ID())
		}
		require.NoError(t, c.Finalize(ctx))
		release(t, a, b, c)
		requireUsage(t, env, 3, 0)
		layers := append(cache.RefList(nil), chain...)

		// One that cannot be let go is named in the error and is the only one to stay in the list.
		testutil.WithMount(t, chain[1], true, func(string) {})
		env.Faults.FailOp("leases.Delete", errBackend)
		err := chain.Release(ctx)
		env.Faults.Reset()
		require.ErrorIs(t, err, errBackend)
		require.Equal(t, cache.RefList{nil, layers[1], nil}, chain)
		require.NoError(t, chain.Release(ctx))
		require.Equal(t, cache.RefList{nil, nil, nil}, chain)
		requireUsage(t, env, 0, 3)
		requireNextMountCleansUp(t, env, b.ID())
	})
}

// requireNextMountCleansUp uses up the view lease that a failed release left.
func requireNextMountCleansUp(t *testing.T, env *testutil.Env, id string) {
	t.Helper()
	ref := get(t, env, id)
	testutil.WithMount(t, ref, true, func(string) {})
	release(t, ref)
	l, _ := leaseOf(t, env, id+"-view")
	require.Nil(t, l)
}

// Spec LOCK-3, quirk Q13, MGR-42: Close waits for what is running, and nothing begins after it.
func TestCloseWaits(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	layer := testutil.MakeLayer(t, env, nil, nil)
	mutID := mutableID(t, env, layer)
	stuck := env.Faults.BlockOp("snapshots.Commit")
	finalizedErr, closed := make(chan error, 1), make(chan error, 1)
	go func() { finalizedErr <- layer.Finalize(ctx) }()
	<-stuck.Entered()
	go func() { closed <- env.Manager.Close() }()
	require.Eventually(t, func() bool {
		_, err := env.Manager.Get(ctx, "unknown", nil)
		return errors.Is(err, cache.ErrClosed)
	}, time.Minute, time.Millisecond)
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	default:
	}
	stuck.Release()
	require.NoError(t, <-finalizedErr)
	require.NoError(t, <-closed)
	release(t, layer)
	env.Reopen()
	release(t, get(t, env, layer.ID()))
	_, err := env.Manager.GetMutable(ctx, mutID)
	require.True(t, cache.IsNotFound(err), "%v", err)
}

// Spec LOCK-3, LEASE-4, fault 26: a release whose caller cannot wait for a hanging backend is finished
// in the background, and Close waits for that, too.
func TestReleaseOfABusyRecord(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	mut := newMutable(t, env, nil)
	stuck := env.Faults.BlockOp("snapshots.Mounts")
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = mut.Mount(ctx, false, nil) })
	<-stuck.Entered()
	impatient, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, mut.Release(impatient), context.Canceled)
	stuck.Release()
	wg.Wait()
	env.Reopen()
	requireUsage(t, env, 0, 0)
	require.Empty(t, leaseIDs(t, env))
}

// Spec LEASE-4: a context that has ended does not keep a release from doing its work.
func TestReleaseWithEndedContext(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		mut, imm := newMutable(t, env, nil), finalized(t, env, nil, nil)
		pair := testutil.MakeLayer(t, env, nil, nil)
		testutil.WithMount(t, imm, true, func(string) {})
		for _, ref := range []cache.Ref{mut, imm, pair} {
			require.NoError(t, ref.Release(ended))
		}
		requireUsage(t, env, 0, 1)
		require.Equal(t, []string{imm.ID()}, leaseIDs(t, env))
	})
}

// Spec LEASE-1, LEASE-2, section 2.2: what a record's lease says.
func TestLeasesOfRecords(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		store, err := env.Opt.MetadataStore.StoreID()
		require.NoError(t, err)
		mut := newMutable(t, env, nil)
		check := func(id, record, snapshotID string, temporary bool) {
			t.Helper()
			l, rs := leaseOf(t, env, id)
			require.NotNil(t, l)
			keys := []string{"containerd.io/gc.flat", "layercache.io/record", "layercache.io/store"}
			if temporary {
				keys = append(keys, "buildkit/lease.temporary")
			}
			for _, k := range keys {
				require.NotEmpty(t, l.Labels[k], k)
			}
			require.Len(t, l.Labels, len(keys))
			require.Equal(t, store, l.Labels["layercache.io/store"])
			require.Equal(t, record, l.Labels["layercache.io/record"])
			require.Equal(t, []leases.Resource{{ID: snapshotID, Type: "snapshots/" + env.Opt.Snapshotter.Name()}}, rs)
		}
		check(mut.ID(), mut.ID(), mut.ID(), false)
		imm := commit(t, mut)
		require.Equal(t, []string{mut.ID()}, leaseIDs(t, env))
		require.NoError(t, imm.Finalize(ctx))
		check(imm.ID(), imm.ID(), imm.ID(), false)
		testutil.WithMount(t, imm, true, func(string) {})
		check(imm.ID()+"-view", imm.ID(), imm.ID()+"-view", true)
		require.Len(t, leaseIDs(t, env), 2)

		child := newMutable(t, env, imm)
		release(t, imm)
		require.NoError(t, env.GC(ctx))
		require.ElementsMatch(t, []string{imm.ID(), child.ID()}, snapshotNames(t, env), "LEASE-2: parents stay")
		release(t, child)
	})
}
