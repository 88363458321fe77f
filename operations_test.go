package cache_test

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// scene is a cache with a few records, on which an operation is tried. What is held or retained must survive
// whatever goes wrong; what the operation made must be whole or gone. Each record has
// one file with its own name as the text.
type scene struct {
	t   testing.TB
	env *testutil.Env
	op  operation
	// held is a finalized layer.
	held cache.ImmutableRef
	// mut is a mutable record, pair a committed and idle one, both on held.
	mut    cache.MutableRef
	pairID string // its immutable name
	openID string // its mutable name
	// loose is a committed layer that nobody asked to retain, if the operation wants one.
	loose cache.ImmutableRef
	// blobs has the layers that are got by their blobs, lazy those of them that are held.
	blobs *sceneBlobs
	lazy  map[string]cache.ImmutableRef
	// exports are what the blobs of records were when they were exported.
	exports map[string]exported
	// lost is the layer, if any, whose snapshot is missing before the operation.
	lost string
	// names are the IDs of everything in the scene.
	names map[string]names
}

// names are the IDs of one record's halves, as far as they are known before the operation.
type names struct{ Mut, Imm string }

// newScene makes the scene of an operation.
func newScene(t testing.TB, env *testutil.Env, op operation) *scene {
	t.Helper()
	s := &scene{t: t, env: env, op: op, names: map[string]names{}, exports: map[string]exported{}}
	s.held = s.finalized("held", nil, cache.CachePolicyRetain)
	s.mut = s.active("mut", cache.CachePolicyRetain)
	s.pairID, s.openID = s.sealed("pair", cache.CachePolicyRetain)
	if op.arrange != nil {
		op.arrange(s)
	}
	env.Faults.Reset()
	return s
}

// finalized adds a layer to the scene.
func (s *scene) finalized(name string, parent cache.ImmutableRef, opts ...cache.RefOption) cache.ImmutableRef {
	s.t.Helper()
	ref := testutil.MakeLayer(s.t, s.env, parent, fileIn(s.t, name, name), opts...)
	require.NoError(s.t, ref.Finalize(ctx))
	s.names[name] = names{Imm: ref.ID()}
	return ref
}

// active adds a mutable record on held to the scene.
func (s *scene) active(name string, opts ...cache.RefOption) cache.MutableRef {
	s.t.Helper()
	ref, err := s.env.Manager.New(ctx, s.held, nil, opts...)
	require.NoError(s.t, err)
	testutil.WithMount(s.t, ref, false, fileIn(s.t, name, name))
	s.names[name] = names{Mut: ref.ID()}
	return ref
}

// sealed adds a committed and idle record on held to the scene.
func (s *scene) sealed(name string, opts ...cache.RefOption) (immID, mutID string) {
	s.t.Helper()
	ref, err := s.active(name, opts...).Commit(ctx)
	require.NoError(s.t, err)
	md, ok := ref.GetEqualMutable()
	require.True(s.t, ok)
	s.names[name] = names{Mut: md.ID(), Imm: ref.ID()}
	require.NoError(s.t, ref.Release(ctx))
	return ref.ID(), md.ID()
}

// end checks what must hold after any failure and lets go of everything.
func (s *scene) end(t *testing.T, op operation, when string, point int) {
	t.Helper()
	cache.Quiesce(s.env.Manager)
	s.env.Faults.Reset()
	if op.blob {
		s.endBlobs(t, op, point%reopenEvery == 0)
	}
	requireFile(t, s.held, "held", "held")
	release(t, s.mut, s.held)
	if s.loose != nil {
		release(t, s.loose)
	}
	prune(t, s.env, usage.PruneInfo{All: true})
	requireUsage(t, s.env, 0, 0)
	require.Empty(t, leaseIDs(t, s.env), "%s %d", when, point)
	require.Empty(t, snapshotNames(t, s.env), "%s %d", when, point)
	require.Empty(t, blobsOf(t, s.env), "%s %d", when, point)
}

// reopenEvery is at how many fault points one is followed by a restart.
const reopenEvery = 3

// operation is something that is tried at each of its fault points: with the call there failing, with the
// caller's context ending there, with the process being killed there.
type operation struct {
	// arrange adds to the scene what only this operation needs.
	arrange func(s *scene)
	// do is the operation. It lets go of what it gets.
	do func(ctx context.Context, s *scene) error
	// states lists what a process killed in the midst of it may leave, in the order in which it comes
	// about, as differences from the scene: "" for none, else "record state" for each record that
	// differs, in the order of their names. The last is what an operation that returned leaves.
	states []string
	// uses tells that use counts are part of the state. They are volatile otherwise.
	uses bool
	// crash tells that the operation is tried in processes that are killed only: it does not leave an
	// open cache if the backend fails.
	crash bool
	// blob tells that it is on layers that come from blobs; again, that it can be repeated.
	blob, again bool
	// many tells that it is on so many records that it has hundreds of points, most of which differ in nothing but the record.
	many bool
	// concurrent tells that parts of it run at the same time, so that the order of its points varies.
	concurrent bool
	// lost tells that the scene misses a snapshot from the start.
	lost bool
	// exported is the record that it exports, if it does, in the form that as describes.
	exported string
	as       remote.RefConfig
}

// operations are all there are. Later issues add theirs.
var operations = map[string]operation{
	"new":          {do: tryNew(), states: []string{""}},
	"new retained": {do: tryNew(cache.CachePolicyRetain), states: []string{"", "new active"}},
	"commit":       {do: tryCommit, states: []string{"", "mut sealed"}},
	"finalize": {do: onPair(func(ctx context.Context, _ *scene, ref cache.ImmutableRef) error {
		return ref.Finalize(ctx)
	}), states: []string{"", "pair ready"}},
	"child of a pair": {do: onPair(func(ctx context.Context, s *scene, ref cache.ImmutableRef) error {
		child, err := s.env.Manager.New(ctx, ref, nil)
		if err == nil {
			err = child.Release(ctx)
		}
		return err
	}), states: []string{"", "pair ready"}},
	"mount": {do: onPair(func(ctx context.Context, _ *scene, ref cache.ImmutableRef) error {
		_, err := ref.Mount(ctx, true, nil)
		if err == nil {
			_, err = ref.Mount(ctx, false, nil)
		}
		return err
	}), states: []string{"", "pair ready"}},
	"reopen": {do: tryReopen, states: []string{"", "pair active"}},
	"seal": {
		arrange: func(s *scene) { require.NoError(s.t, s.active("idle", cache.CachePolicyRetain).Release(ctx)) },
		do:      trySeal,
		states:  []string{"", "idle sealed"},
	},
	"drop": {
		arrange: func(s *scene) {
			ref, err := s.active("loose").Commit(ctx)
			require.NoError(s.t, err)
			s.names["loose"] = names{Mut: s.names["loose"].Mut, Imm: ref.ID()}
			s.loose = ref
		},
		do: func(ctx context.Context, s *scene) error {
			ref := s.loose
			s.loose = nil
			return ref.Release(ctx)
		},
		states: []string{"loose gone"}, // by the operation, or by the next start
	},
	"set": {do: trySet, states: []string{"", "mut active k=v", "mut active k=v x=data", "mut active x=data"}},
	"du": {do: func(ctx context.Context, s *scene) error {
		_, err := s.env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
		return err
	}, states: []string{""}},
	"check": {do: func(ctx context.Context, s *scene) error {
		found, err := s.env.Manager.Check(ctx)
		require.Empty(s.t, found)
		return err
	}, states: []string{""}},
	"repair": {arrange: unleased, do: tryRepair, states: []string{""}},
	"prune": {
		arrange: func(s *scene) {
			leaf := s.finalized("leaf", s.held, cache.CachePolicyRetain)
			require.NoError(s.t, s.finalized("tip", leaf, cache.CachePolicyRetain).Release(ctx))
			require.NoError(s.t, leaf.Release(ctx))
		},
		do: func(ctx context.Context, s *scene) error {
			return s.env.Manager.Prune(ctx, nil, usage.PruneInfo{All: true})
		},
		states: []string{"", "leaf gone, pair gone, tip gone"},
	},
	"flush":   {arrange: useAll, do: flush, uses: true, states: []string{"", "leaf ready uses=2, pair sealed uses=2"}},
	"close":   {arrange: useAll, do: tryClose, crash: true, uses: true, states: []string{"", "leaf ready uses=2, pair sealed uses=2"}},
	"open":    {arrange: closed, do: tryOpen, crash: true, states: []string{""}},
	"reboot":  {arrange: unsynced, do: tryOpen, crash: true, states: []string{"lost gone, lost child gone, lost mount gone, lost pair gone"}},
	"recover": {arrange: mess, do: tryOpen, crash: true, states: []string{"broken gone, half ready, used gone"}},
}

func tryNew(opts ...cache.RefOption) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		ref, err := s.env.Manager.New(ctx, s.held, nil, opts...)
		if err != nil {
			return err
		}
		return ref.Release(ctx)
	}
}

func tryCommit(ctx context.Context, s *scene) error {
	ref, err := s.mut.Commit(ctx)
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

// onPair does something with the immutable half of the pair.
func onPair(do func(ctx context.Context, s *scene, ref cache.ImmutableRef) error) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		ref, err := s.env.Manager.Get(ctx, s.pairID, nil)
		if err != nil {
			return err
		}
		err = do(ctx, s, ref)
		if rerr := ref.Release(ctx); err == nil {
			err = rerr
		}
		return err
	}
}

func tryReopen(ctx context.Context, s *scene) error {
	ref, err := s.env.Manager.GetMutable(ctx, s.openID)
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

func trySeal(ctx context.Context, s *scene) error {
	ref, err := s.env.Manager.Get(ctx, s.names["idle"].Mut, nil)
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

func trySet(_ context.Context, s *scene) error {
	if err := s.mut.SetString("k", "v", "i:v"); err != nil {
		return err
	}
	if err := s.mut.SetExternal("x", []byte("data")); err != nil {
		return err
	}
	return s.mut.ClearValueAndIndex("k", "i:")
}

// unleased leaves a record without its lease.
func unleased(s *scene) {
	require.NoError(s.t, s.finalized("unleased", s.held, cache.CachePolicyRetain).Release(ctx))
	require.NoError(s.t, s.env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: s.names["unleased"].Imm}))
}

// tryRepair repairs whatever there is to repair.
func tryRepair(ctx context.Context, s *scene) error {
	found, err := s.env.Manager.Check(ctx)
	if err == nil {
		_, err = s.env.Manager.Repair(ctx, found...)
	}
	return err
}

// useAll leaves uses that are not written yet.
func useAll(s *scene) {
	require.NoError(s.t, s.finalized("leaf", s.held, cache.CachePolicyRetain).Release(ctx))
	require.NoError(s.t, flush(ctx, s))
	for _, id := range []string{s.pairID, s.names["leaf"].Imm} {
		ref, err := s.env.Manager.Get(ctx, id, nil)
		require.NoError(s.t, err)
		require.NoError(s.t, ref.Release(ctx))
	}
}

// flush has what is written behind fall due.
func flush(_ context.Context, s *scene) error {
	s.env.Clock.Advance(time.Hour)
	return nil
}

func tryClose(_ context.Context, s *scene) error { return s.env.Close() }

func closed(s *scene) { require.NoError(s.t, s.env.Close()) }

func tryOpen(ctx context.Context, s *scene) error { return s.env.TryOpen(ctx) }

// mess leaves what each kind of interrupted work does, and drops the cache.
func mess(s *scene) {
	broken := s.finalized("broken", s.held, cache.CachePolicyRetain)
	editRow(s.t, s.env, broken.ID(), map[string]any{"cache.deleted": true})
	immID, mutID := s.sealed("half", cache.CachePolicyRetain)
	require.NoError(s.t, s.env.Opt.Snapshotter.Commit(ctx, immID, mutID))
	s.active("used")
	unleased := s.finalized("unleased", s.held, cache.CachePolicyRetain)
	lm := s.env.Opt.LeaseManager
	require.NoError(s.t, lm.Delete(ctx, leases.Lease{ID: unleased.ID()}))
	storeID, err := s.env.Opt.MetadataStore.StoreID()
	require.NoError(s.t, err)
	_, err = lm.Create(ctx, leases.WithID("orphan"), leases.WithLabels(map[string]string{
		"layercache.io/store": storeID, "layercache.io/record": "orphan",
	}))
	require.NoError(s.t, err)
	s.env.Crash()
}

// unsynced leaves records that were not on disk when the machine went down, and drops the cache.
func unsynced(s *scene) {
	lost := s.finalized("lost", s.held, cache.CachePolicyRetain)
	s.finalized("lost child", lost)
	s.sealed("lost pair", cache.CachePolicyRetain)
	require.NoError(s.t, s.active("lost mount", cache.CachePolicyRetain).Release(ctx))
	for _, name := range []string{"lost", "lost pair", "lost mount"} { // the child may have been flushed
		for _, id := range []string{s.names[name].Mut, s.names[name].Imm} {
			if id != "" {
				editRow(s.t, s.env, id, map[string]any{keyUnsynced: "another boot"})
			}
		}
	}
	editRow(s.t, s.env, s.names["lost child"].Imm, map[string]any{keyUnsynced: nil})
	s.env.Crash()
}
