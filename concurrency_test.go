package cache_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// panicIfLocked panics if the graph's mutex stays held while a call to the backend is made.
func panicIfLocked(m cache.Manager, p testutil.Point) {
	entered := make(chan struct{})
	go func() { cache.EnterGraph(m); close(entered) }()
	timer := time.NewTimer(10 * time.Second) // ends only a test that fails
	defer timer.Stop()
	select {
	case <-entered:
	case <-timer.C:
		panic("called under the graph's mutex: " + p.String())
	}
}

// Fault 24, spec LOCK-1, LOCK-2, quirk Q12: no call reaches a backend while the graph's mutex is held.
func TestNoBackendCallUnderTheGraphMutex(t *testing.T) {
	for backend, opts := range faultBackends {
		for name, op := range operations {
			if op.crash {
				continue
			}
			t.Run(backend+"/"+name, func(t *testing.T) {
				env := testutil.New(t, opts...)
				s := newScene(t, env, op)
				var calls atomic.Int32
				m := env.Manager
				env.Faults.OnPoint(func(p testutil.Point) {
					calls.Add(1)
					panicIfLocked(m, p)
				})
				require.NoError(t, op.do(ctx, s))
				require.NotZero(t, calls.Load())
				s.end(t, op, "", 0)
			})
		}
	}
}

// Spec MGR-9, REF-1, REF-3: Get, Clone and Release of an idle record call no backend, write nothing and
// allocate little; the use is written behind.
func TestGetAndReleaseTouchMemoryOnly(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		imm := finalizedLayer(t, env, nil)
		require.NoError(t, env.Opt.MetadataStore.Flush())
		env.Faults.Reset()
		getAndRelease := func() {
			ref, err := env.Manager.Get(ctx, imm.ID(), nil)
			if err == nil {
				err = ref.Release(ctx)
			}
			if err != nil {
				t.Error(err)
			}
		}
		require.LessOrEqual(t, testing.AllocsPerRun(200, getAndRelease), 4.0)
		require.Zero(t, env.Faults.Len(), "%s", env.Faults.Trace())

		require.NoError(t, env.Opt.MetadataStore.Flush())
		require.Equal(t, 1, env.Faults.Count("db.Update"), "one transaction for all of them")
		require.Equal(t, 202, usageByID(t, env)[imm.ID()].UsageCount)
		env.Crash()
		env.Open()
		require.Equal(t, 202, usageByID(t, env)[imm.ID()].UsageCount)
	})
}

// Fault 26, fault 25, spec LOCK-2: a backend call that hangs holds up its own record only; a caller that
// waits for the record leaves with its context.
func TestHungBackendHoldsUpItsRecordOnly(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	parent := finalizedLayer(t, env, nil)
	idle := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	hung := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)

	block := env.Faults.BlockOp("snapshots.Commit")
	done := make(chan error, 1)
	go func() { done <- hung.Finalize(ctx) }()
	<-block.Entered()

	// Everything else goes on.
	ref, err := env.Manager.Get(ctx, parent.ID(), nil)
	require.NoError(t, err)
	child := newMutable(t, env, ref)
	release(t, commit(t, child), ref)
	again, err := env.Manager.Get(ctx, hung.ID(), nil)
	require.NoError(t, err, "memory is not held up even for the record itself")
	require.NoError(t, idle.SetDescription("x"))
	requireUsage(t, env, 2, 1)

	// A second user of the record waits, and can leave.
	short, cancel := context.WithCancel(ctx)
	waiting := make(chan error, 1)
	go func() { waiting <- again.Finalize(short) }()
	cancel()
	require.ErrorIs(t, <-waiting, context.Canceled)
	_, err = again.Mount(short, true, nil)
	require.ErrorIs(t, err, context.Canceled)

	block.Release()
	require.NoError(t, <-done)
	require.NoError(t, again.Finalize(ctx))
	release(t, again, hung, idle)
}

// Spec LOCK-3, REF-8, quirk Q13: a Release whose context ends while the record is busy is finished in
// the background, and Close waits for it.
func TestReleaseOfABusyRecordGoesOnInTheBackground(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	mut := newMutable(t, env, nil)
	block := env.Faults.BlockOp("snapshots.Mounts")
	mounted := make(chan error, 1)
	go func() {
		_, err := mut.Mount(ctx, false, nil)
		mounted <- err
	}()
	<-block.Entered()
	short, cancel := context.WithCancelCause(ctx)
	why := errors.New("the client left")
	cancel(why)
	require.ErrorIs(t, mut.Release(short), why)

	closed := make(chan error, 1)
	go func() { closed <- env.Manager.Close() }()
	block.Release()
	require.NoError(t, <-mounted)
	require.NoError(t, <-closed)
	require.Zero(t, env.Manager.Stats().Refs)
	require.NoError(t, env.Close())
	env.Open()
	requireUsage(t, env, 0, 0)
}

// Fault 26: a hung call ends with the context of the caller that made it.
func TestHungCallEndsWithItsContext(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	block := env.Faults.BlockOp("snapshots.Prepare")
	short, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := env.Manager.New(short, nil, nil)
		done <- err
	}()
	<-block.Entered()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	block.Release()
	require.NoError(t, env.GC(ctx))
	require.Empty(t, leaseIDs(t, env))
	requireUsage(t, env, 0, 0)
}

// Fault 27, LOCK-1, LOCK-4, quirks Q11, Q14, REF-13, S-24: all verbs at once, under the race detector, on few records, so
// that they meet. What is left over afterwards must be consistent, which the fixture checks.
func TestAllVerbsAtOnce(t *testing.T) {
	for _, name := range []string{"doubles", "joined", "native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, append([]testutil.Option{testutil.Bare()}, backends[name]...)...)
			base := testutil.MakeLayer(t, env, nil, func(dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("base"), 0o600))
			})
			rounds := stressRounds(t, 60)
			heap := heapInUse()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			var wg sync.WaitGroup
			st := newStress(t, env, base)
			for w := range 6 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(w)))
					for range rounds {
						if err := st.step(rng); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			watchdog(t, &wg, &st.steps)
			cache.Quiesce(env.Manager)
			release(t, base)
			prune(t, env, usage.PruneInfo{All: true})
			requireUsage(t, env, 0, 0)
			requireNoWork(t, env)
			require.Empty(t, leaseIDs(t, env))
			require.Empty(t, blobsOf(t, env))
			st.ids = nil
			require.Less(t, heapInUse(), heap+heapSlack, "what is gone must not be remembered")
		})
	}
}

// stressRounds is how long stress tests go on: .ci/full asks for more.
func stressRounds(t *testing.T, otherwise int) int {
	t.Helper()
	if text := os.Getenv("LAYERCACHE_STRESS_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		return n
	}
	if testing.Short() {
		return otherwise / 6
	}
	return otherwise
}

// heapSlack is what caches of the parts and of the runtime may hold on to, whatever the number of rounds.
const heapSlack = 16 << 20

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers and weak pointers held goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Fault 27, spec MGR-42, LOCK-3: Close in the middle of everything. What was under way ends in good order, what
// comes later is refused, and the next start finds the records as they should be.
func TestCloseAmongAllVerbs(t *testing.T) {
	for name := range faultBackends {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, append([]testutil.Option{testutil.Bare()}, backends[name]...)...)
			base := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
			for range stressRounds(t, 12) {
				var wg sync.WaitGroup
				var steps atomic.Int32
				st := newStress(t, env, base)
				seed := rand.Uint64()
				busy := make(chan struct{})
				for w := range 4 {
					wg.Go(func() {
						rng := rand.New(rand.NewPCG(seed, uint64(w)))
						for {
							err := st.step(rng)
							if errors.Is(err, cache.ErrClosed) {
								return
							}
							if err != nil {
								t.Errorf("seed %d: %v", seed, err)
								return
							}
							if steps.Add(1) == 30 {
								close(busy)
							}
						}
					})
				}
				<-busy
				require.NoError(t, env.Manager.Close())
				watchdog(t, &wg, &st.steps)
				require.NoError(t, env.Close())
				env.Open()
				var err error
				base, err = env.Manager.Get(ctx, base.ID(), nil)
				require.NoError(t, err)
			}
			release(t, base)
		})
	}
}

// watchdog waits, and shows every goroutine if no step was made for longer than any could take.
func watchdog(t *testing.T, wg *sync.WaitGroup, steps *atomic.Int64) {
	t.Helper()
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	ticker := time.NewTicker(2 * time.Minute)
	defer ticker.Stop()
	for before := int64(-1); ; {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		now := steps.Load()
		if now == before {
			buf := make([]byte, 1<<20)
			panic("deadlock\n" + string(buf[:runtime.Stack(buf, true)]))
		}
		before = now
	}
}

type stress struct {
	env  *testutil.Env
	m    cache.Manager // stays when env closes its own
	base cache.ImmutableRef
	// blobs are layers that come from blobs; handlers are for all of them.
	blobs    *sceneBlobs
	handlers cache.DescHandlers
	steps    atomic.Int64
	mu       sync.Mutex
	ids      []string
}

func (s *stress) remember(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, ids...)
	if n := len(s.ids); n > 8 {
		s.ids = s.ids[n-8:]
	}
}

func (s *stress) pick(rng *rand.Rand) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) == 0 {
		return "none"
	}
	return s.ids[rng.IntN(len(s.ids))]
}

// expected are the answers that concurrent users must be ready for.
func expected(err error) error {
	if err == nil || cache.IsNotFound(err) || errors.Is(err, cache.ErrLocked) || errdefs.IsInvalidArgument(err) {
		return nil
	}
	return err
}

func (s *stress) step(rng *rand.Rand) error {
	defer s.steps.Add(1)
	m := s.m
	switch rng.IntN(16) {
	case 10, 11, 12, 13:
		return expected(s.layers(rng))
	case 14, 15:
		return expected(s.derive(rng))
	case 0:
		return expected(m.Prune(ctx, nil, usage.PruneInfo{Filter: []string{"id~=^[0-3]"}}))
	case 1:
		_, err := m.DiskUsage(ctx, usage.DiskUsageInfo{})
		return err
	case 2:
		return s.env.GC(ctx)
	case 3, 4:
		ref, err := m.Get(ctx, s.pick(rng), nil, s.handlers)
		if err != nil {
			return expected(err)
		}
		return s.use(rng, ref)
	case 5, 6:
		mut, err := m.GetMutable(ctx, s.pick(rng))
		if err != nil {
			return expected(err)
		}
		return s.write(rng, mut)
	}
	var opts []cache.RefOption
	if rng.IntN(2) == 0 {
		opts = append(opts, cache.CachePolicyRetain)
	}
	parent := s.base
	if rng.IntN(3) == 0 {
		if got, err := m.Get(ctx, s.pick(rng), nil, s.handlers); err == nil {
			defer func() { _ = got.Release(ctx) }()
			parent = got
		}
	}
	mut, err := m.New(ctx, parent, nil, opts...)
	if err != nil {
		return expected(err)
	}
	return s.write(rng, mut)
}

func (s *stress) write(rng *rand.Rand, mut cache.MutableRef) error {
	s.remember(mut.ID())
	if err := mut.SetString("k", "v", "stress:"+mut.ID()); err != nil {
		return err
	}
	if rng.IntN(2) == 0 {
		if _, err := mut.Mount(ctx, rng.IntN(2) == 0, nil); err != nil {
			return err
		}
	}
	if rng.IntN(4) == 0 {
		return mut.Release(ctx)
	}
	imm, err := mut.Commit(ctx)
	if err != nil {
		return err
	}
	s.remember(imm.ID())
	return s.use(rng, imm)
}

func (s *stress) use(rng *rand.Rand, ref cache.ImmutableRef) error {
	clone := ref.Clone()
	if rng.IntN(6) == 0 {
		if err := s.export(ctx, rng, clone); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	var errs [3]error
	wg.Go(func() { errs[0] = clone.Finalize(ctx) })
	if rng.IntN(2) == 0 {
		wg.Go(func() { _, errs[1] = ref.Mount(ctx, true, nil) })
	}
	wg.Go(func() { errs[2] = ref.LayerChain().Release(ctx) })
	wg.Wait()
	for _, err := range append(errs[:], clone.Release(ctx), ref.Release(ctx), ref.Release(ctx)) {
		if err != nil {
			return err
		}
	}
	return nil
}
