package cache_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// leaks are the events of refs that leaked.
func leaks(r *recorder) (out []cache.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ev := range r.events {
		if ev.Kind == cache.EventLeak {
			out = append(out, ev)
		}
	}
	return out
}

// awaitLeaks has the garbage collected until there are n events of leaks.
func awaitLeaks(t *testing.T, r *recorder, n int) []cache.Event {
	t.Helper()
	require.Eventually(t, func() bool {
		runtime.GC()
		return len(leaks(r)) >= n
	}, 30*time.Second, time.Millisecond)
	return leaks(r)
}

//go:noinline
func loseRef(t *testing.T, env *testutil.Env, id string) { _ = get(t, env, id) }

//go:noinline
func loseWriter(t *testing.T, env *testutil.Env) (id string) { return newMutable(t, env, nil).ID() }

//go:noinline
func loseClones(ref cache.ImmutableRef) {
	ref.Clone()
	ref.LayerChain()
}

// Design, Seen from outside: a ref that nobody can release any more is reported once, with who took it and how long ago, and stays held; those
// that were released, committed or are still known are not.
func TestLeakedRefs(t *testing.T) {
	r, opts := observed(testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.TrackHolders = true }))
	env := testutil.New(t, opts...)
	imm := finalized(t, env, nil, nil)
	for range 100 {
		release(t, get(t, env, imm.ID()), imm.Clone())
	}
	kept := get(t, env, imm.ID())
	loseRef(t, env, imm.ID())
	env.Clock.Advance(time.Minute)

	events := awaitLeaks(t, r, 1)
	require.Len(t, events, 1)
	ev := events[0]
	require.Equal(t, [2]string{imm.ID(), "immutable"}, [2]string{ev.ID, ev.Reason})
	require.Equal(t, time.Minute, ev.Duration)
	require.True(t, ev.Holder.Leaked)
	require.Equal(t, time.Minute, ev.Holder.Age)
	require.Contains(t, ev.Holder.Place, "helpers_test.go:", "the innermost caller that is not the cache: the test's get")
	require.Contains(t, strings.Join(ev.Holder.Stack, "\n"), "loseRef")
	require.Equal(t, 3, env.Manager.Stats().Refs, "it is not released")
	holders := env.Manager.Holders(imm.ID())
	require.Len(t, holders, 3)
	var leaked []cache.Holder
	for _, h := range holders {
		if h.Leaked {
			leaked = append(leaked, h)
		}
	}
	require.Equal(t, []cache.Holder{*ev.Holder}, leaked)
	require.Equal(t, fmt.Sprintf("immutable ref to %s held by %s for 1m0s, leaked", imm.ID(), ev.Holder.Place), leaked[0].String())

	release(t, imm, kept)
	require.Empty(t, prune(t, env, usage.PruneInfo{All: true}), "what leaked holds its record")
	id := loseWriter(t, env)
	events = awaitLeaks(t, r, 2)
	require.Len(t, events, 2, "once for each")
	require.Equal(t, [2]string{id, "mutable"}, [2]string{events[1].ID, events[1].Reason})
	_, err := env.Manager.GetMutable(ctx, id)
	require.ErrorIs(t, err, cache.ErrLocked)

	other := finalized(t, env, nil, nil)
	loseClones(other)
	require.Len(t, awaitLeaks(t, r, 4), 4)
	release(t, other)
	env.Crash() // nobody can release what leaked
	env.Open()
}

// TestObserverOfALeakMayUseTheCache: who is told of a leak may call the cache, and Close waits for him.
func TestObserverOfALeakMayUseTheCache(t *testing.T) {
	r, opts := observed(testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.TrackHolders = true }))
	env := testutil.New(t, opts...)
	imm := finalized(t, env, nil, nil)
	m, looked, goOn := env.Manager, make(chan []cache.Holder), make(chan struct{})
	r.mu.Lock()
	r.react = func(ev cache.Event) {
		if ev.Kind == cache.EventLeak {
			looked <- m.Holders(ev.ID)
			<-goOn
		}
	}
	r.mu.Unlock()
	loseRef(t, env, imm.ID())
	release(t, imm)
	var holders []cache.Holder
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case holders = <-looked:
			return true
		default:
			return false
		}
	}, 30*time.Second, time.Millisecond)
	require.Len(t, holders, 1)
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	require.Eventually(t, func() bool {
		_, err := m.New(ctx, nil, nil)
		return err != nil
	}, 30*time.Second, time.Millisecond, "Close has begun")
	require.Empty(t, closed)
	close(goOn)
	require.NoError(t, <-closed)
	env.Crash() // the manager is closed
	env.Open()
}

// A holder is named by the innermost caller outside of the cache, and its age is that of the moment it is asked for.
func TestHolderPlace(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.TrackHolders = true }))
	imm := finalized(t, env, nil, nil)
	_, file, line, _ := runtime.Caller(0)
	clone := imm.Clone() // the line after
	env.Clock.Advance(time.Second)
	h := env.Manager.Holders(imm.ID())
	require.Len(t, h, 2)
	at := 0
	if !strings.Contains(h[at].Place, "leaks_test.go") {
		at = 1
	}
	require.Equal(t, fmt.Sprintf("%s:%d", file, line+1), h[at].Place)
	require.Equal(t, fmt.Sprintf("immutable ref to %s held by %s for 1s", imm.ID(), h[at].Place), h[at].String())
	env.Clock.Advance(time.Second)
	require.Equal(t, 2*time.Second, env.Manager.Holders(imm.ID())[at].Age)
	release(t, clone, imm)
}
