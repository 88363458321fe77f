package cache_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// recorder notes events and may react to them.
type recorder struct {
	mu     sync.Mutex
	events []cache.Event
	react  func(cache.Event)
}

func (r *recorder) Observe(ev cache.Event) {
	r.mu.Lock()
	r.events = append(r.events, ev)
	react := r.react
	r.mu.Unlock()
	if react != nil {
		react(ev)
	}
}

// take returns the events since the last take.
func (r *recorder) take() []cache.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

// takeTexts returns the events since the last take as "kind id reason", with "error" where there was one.
func (r *recorder) takeTexts() []string {
	var out []string
	for _, ev := range r.take() {
		words := []string{string(ev.Kind), ev.ID}
		if ev.Reason != "" {
			words = append(words, ev.Reason)
		}
		if ev.Err != nil {
			words = append(words, "error")
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

func observed(opts ...testutil.Option) (*recorder, []testutil.Option) {
	r := &recorder{}
	return r, append(opts, testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Observer = r }))
}

// Design, Locks: what an observer is told about a record from its birth to its end; scenario S-1.
func TestEvents(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	require.Empty(t, r.takeTexts(), "opening an empty cache")

	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	require.Equal(t, []string{"new " + mut.ID()}, r.takeTexts())
	_, err := mut.Mount(ctx, false, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"mount " + mut.ID()}, r.takeTexts())
	imm := commit(t, mut)
	require.Equal(t, []string{"commit " + imm.ID()}, r.takeTexts())
	clone := imm.Clone()
	release(t, imm)
	require.Empty(t, r.takeTexts(), "not the last")
	release(t, clone, clone)
	require.Equal(t, []string{"release " + imm.ID()}, r.takeTexts())

	mut, err = env.Manager.GetMutable(ctx, mut.ID())
	require.NoError(t, err)
	require.Equal(t, []string{"reopen " + mut.ID(), "get " + mut.ID() + " hit"}, r.takeTexts())
	_, err = env.Manager.GetMutable(ctx, mut.ID())
	require.ErrorIs(t, err, cache.ErrLocked)
	require.Equal(t, []string{"get " + mut.ID() + " miss error"}, r.takeTexts())
	_, err = env.Manager.Get(ctx, "unknown", nil)
	require.Error(t, err)
	require.Equal(t, []string{"get unknown miss error"}, r.takeTexts())

	imm = commit(t, mut)
	require.NoError(t, imm.Finalize(ctx))
	require.NoError(t, imm.Finalize(ctx))
	require.Equal(t, []string{"commit " + imm.ID(), "finalize " + imm.ID()}, r.takeTexts())
	ref := get(t, env, imm.ID())
	require.Equal(t, []string{"get " + imm.ID() + " hit"}, r.takeTexts())
	release(t, ref, imm)
	require.Equal(t, []string{"release " + imm.ID()}, r.takeTexts())
	require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
	require.Equal(t, []string{"remove " + imm.ID() + " pruned", "collect ", "prune "}, r.takeTexts())

	mut = newMutable(t, env, nil)
	release(t, mut)
	require.Equal(t, []string{"new " + mut.ID(), "remove " + mut.ID() + " released", "release " + mut.ID()}, r.takeTexts())
}

// Design, What a crash leaves: what a start repairs is reported, and an orderly end leaves nothing to.
func TestRecoverEvents(t *testing.T) {
	r, opts := observed(testutil.Doubles(), testutil.Separate())
	env := testutil.New(t, opts...)
	lost := newMutable(t, env, nil)
	half := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	mutID := mutableID(t, env, half)
	require.NoError(t, env.Opt.Snapshotter.Commit(ctx, half.ID(), mutID))
	marked := newMutable(t, env, nil)
	env.Faults.FailOp(fault.OpLeaseDelete, errBackend)
	require.ErrorIs(t, marked.Release(ctx), errBackend)
	env.Faults.Reset()
	r.take()
	env.Crash()
	env.Open()
	require.ElementsMatch(t, []string{
		"recover " + lost.ID() + " broken", "recover " + mutID + " broken",
		"recover " + half.ID() + " finalized", "recover " + marked.ID() + " deleted",
	}, r.takeTexts())
	env.Reopen()
	require.Empty(t, r.takeTexts())
}

// Fault 24: events carry the error and how long it took by the manager's clock.
func TestEventsOfFailures(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	imm := finalized(t, env, nil, nil)
	r.take()
	env.Faults.Inject(fault.Match{Op: fault.OpSnapshotView, When: fault.Before}, func(context.Context, fault.Point) error {
		env.Clock.Advance(3 * time.Second)
		return errBackend
	})
	_, err := imm.Mount(ctx, true, nil)
	require.ErrorIs(t, err, errBackend)
	events := r.take()
	require.Len(t, events, 1)
	require.Equal(t, cache.EventMount, events[0].Kind)
	require.ErrorIs(t, events[0].Err, errBackend)
	require.Equal(t, 3*time.Second, events[0].Duration)
	env.Faults.Reset()

	env.Faults.FailOp(fault.OpSnapshotPrepare, errBackend)
	_, err = env.Manager.New(ctx, imm, nil)
	require.ErrorIs(t, err, errBackend)
	events = r.take()
	require.Len(t, events, 1)
	require.Equal(t, cache.EventNew, events[0].Kind)
	require.ErrorIs(t, events[0].Err, errBackend)
	env.Faults.Reset()
	release(t, imm)
}

// Spec LOCK-2: an observer may call the cache, about the very record that it is told of: no lock is held.
func TestObserverCallsBack(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	patient, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var seen sync.Map
	m := env.Manager
	var busy bool // every call of this test is made from one goroutine
	r.react = func(ev cache.Event) {
		if busy {
			return
		}
		busy = true
		defer func() { busy = false }()
		_, err := m.DiskUsage(patient, usage.DiskUsageInfo{})
		require.NoError(t, err)
		_, err = m.Search(patient, "x", true)
		require.NoError(t, err)
		m.Stats()
		if ref, err := m.Get(patient, ev.ID, nil, cache.NoUpdateLastUsed); err == nil {
			_, err = ref.Mount(patient, true, nil)
			require.NoError(t, err, "%s", ev.Kind)
			require.NoError(t, ref.Finalize(patient))
			require.NoError(t, ref.Release(patient))
		}
		require.NoError(t, patient.Err(), "%s", ev.Kind)
		seen.Store(ev.Kind, true)
	}
	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	_, err := mut.Mount(ctx, false, nil)
	require.NoError(t, err)
	imm := commit(t, mut)
	release(t, imm)
	release(t, get(t, env, imm.ID()))
	for _, kind := range []cache.EventKind{cache.EventNew, cache.EventMount, cache.EventCommit, cache.EventRelease, cache.EventGet} {
		_, ok := seen.Load(kind)
		require.True(t, ok, kind)
	}
}

// Design, Locks: live refs can be listed with place and time, by any name of their record, until they are released.
func TestHolders(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.TrackHolders = true }))
	m := env.Manager
	require.Empty(t, m.Holders(""))
	start := env.Clock.Now()
	mut := newMutable(t, env, nil, cache.CachePolicyRetain)
	holders := m.Holders(mut.ID())
	require.Len(t, holders, 1)
	require.Equal(t, mut.ID(), holders[0].ID)
	require.True(t, holders[0].Mutable)
	require.Equal(t, start, holders[0].Since)
	require.Contains(t, strings.Join(holders[0].Stack, "\n"), "TestHolders")
	require.Contains(t, strings.Join(holders[0].Stack, "\n"), "observe_test.go:")

	env.Clock.Advance(time.Minute)
	imm := commit(t, mut)
	require.Empty(t, heldMutably(m.Holders("")), "the mutable ref is consumed")
	env.Clock.Advance(time.Minute)
	clone := cloneHere(imm)
	for _, id := range []string{mut.ID(), imm.ID()} {
		holders = m.Holders(id)
		require.Len(t, holders, 2, "either name of a pair tells who has it locked")
		require.Equal(t, start.Add(time.Minute), holders[0].Since, "oldest first")
		require.Equal(t, start.Add(2*time.Minute), holders[1].Since)
		require.Contains(t, strings.Join(holders[1].Stack, "\n"), "cloneHere")
		require.False(t, holders[0].Mutable)
	}
	child := newMutable(t, env, foreign{ImmutableRef: imm, id: imm.ID()})
	require.NoError(t, m.Prune(ctx, nil, usage.PruneInfo{}))
	require.Len(t, m.Holders(""), 3)
	chain := imm.LayerChain()
	require.Len(t, m.Holders(imm.ID()), 3)
	require.NoError(t, chain.Release(ctx))
	release(t, clone, imm, imm)
	require.Empty(t, m.Holders(imm.ID()), "what operations and children hold are no refs of anybody")
	release(t, clone.Clone())
	require.Len(t, m.Holders(child.ID()), 1)
	release(t, child)
	require.Empty(t, m.Holders(""))

	plain := testutil.New(t, testutil.Doubles())
	ref := newMutable(t, plain, nil)
	require.Empty(t, plain.Manager.Holders(""), "not asked for")
	release(t, ref)
}

func cloneHere(ref cache.ImmutableRef) cache.ImmutableRef { return ref.Clone() }

func heldMutably(holders []cache.Holder) (out []cache.Holder) {
	for _, h := range holders {
		if h.Mutable {
			out = append(out, h)
		}
	}
	return out
}

// Design, Locks: nothing that fails leaves a holder behind.
func TestHoldersOfFailures(t *testing.T) {
	eachFault(t, errBackend, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
		parent := finalized(t, env, nil, nil)
		var ref cache.MutableRef
		act := func() (err error) {
			ref, err = env.Manager.New(ctx, parent, nil)
			return err
		}
		return act, func(t *testing.T, err error) {
			want := 1
			if err == nil {
				want = 2
			}
			require.Equal(t, want, env.Manager.Stats().Refs)
			require.Len(t, env.Manager.Holders(""), want)
			if err == nil {
				release(t, ref)
			}
			release(t, parent)
			require.Empty(t, env.Manager.Holders(""))
		}
	}, testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.TrackHolders = true }))
}
