package testutil_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
)

var kinds = map[string][]testutil.Option{
	"native":   nil,
	"overlay":  {testutil.Overlay()},
	"separate": {testutil.Separate()},
	"doubles":  {testutil.Doubles()},
	"joined":   {testutil.JoinedDoubles()},
	"bare":     {testutil.Bare()},
}

func eachKind(t *testing.T, fn func(t *testing.T, opts ...testutil.Option)) {
	for name, opts := range kinds {
		t.Run(name, func(t *testing.T) { fn(t, opts...) })
	}
}

func write(t testing.TB, name, text string) func(string) {
	return func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

// TestLayers builds two layers, finds them after closing and after a crash, and reads them (scenario S-2).
func TestLayers(t *testing.T) {
	eachKind(t, func(t *testing.T, opts ...testutil.Option) {
		ctx := context.Background()
		env := testutil.New(t, opts...)
		base := testutil.MakeLayer(t, env, nil, write(t, "a", "one"))
		top := testutil.MakeLayer(t, env, base, write(t, "b", "two"), cache.CachePolicyRetain)
		require.NoError(t, top.Finalize(ctx))
		inUse, idle := testutil.Usage(t, env)
		require.Equal(t, [2]int{2, 0}, [2]int{inUse, idle})
		id := top.ID()
		require.NoError(t, base.Release(ctx))
		require.NoError(t, top.Release(ctx))
		require.Empty(t, env.Problems(ctx))

		for _, again := range []func(){env.Reopen, func() { env.Crash(); env.Open() }} {
			again()
			require.NoError(t, env.GC(ctx))
			ref, err := env.Manager.Get(ctx, id, nil)
			require.NoError(t, err)
			testutil.WithMount(t, ref, true, func(dir string) {
				for name, text := range map[string]string{"a": "one", "b": "two"} {
					got, err := os.ReadFile(filepath.Join(dir, name))
					require.NoError(t, err)
					require.Equal(t, text, string(got))
				}
			})
			require.NoError(t, ref.Release(ctx))
			inUse, idle = testutil.Usage(t, env)
			require.Equal(t, 2, inUse+idle)
		}
	})
}

// TestPointsEverywhere: an operation passes points of all the parts it uses, and each of them can
// fail, after which nothing is left over and the operation works (fault 21, spec MGR-3).
func TestPointsEverywhere(t *testing.T) {
	eachKind(t, func(t *testing.T, opts ...testutil.Option) {
		ctx, boom := context.Background(), errors.New("boom")
		env := testutil.New(t, opts...)
		op := func() error {
			ref, err := env.Manager.New(ctx, nil, nil)
			if err != nil {
				return err
			}
			return ref.Release(ctx)
		}
		require.NoError(t, op())
		if strings.HasSuffix(t.Name(), "/bare") {
			require.Zero(t, env.Faults.Len())
			return
		}
		total := env.Faults.Len()
		for _, op := range []string{fault.OpLeaseCreate, fault.OpSnapshotPrepare, fault.OpDBUpdate} {
			require.Positive(t, env.Faults.Count(op), "%s in\n%s", op, env.Faults.Trace())
		}
		separate := strings.HasSuffix(t.Name(), "/separate")
		require.Equal(t, separate, env.Faults.Count(fault.OpTransaction) == 0)

		failed := 0
		for n := 1; n <= total; n++ {
			env.Faults.Reset()
			env.Faults.FailAt(n, boom)
			err := op()
			require.Empty(t, env.Faults.Pending(), "point %d", n)
			if err != nil {
				failed++
			}
			env.Faults.Reset()
			// What could not be cleaned up then, opening again does.
			env.Reopen()
			require.Empty(t, env.Problems(ctx), "after failing at point %d", n)
			require.NoError(t, op())
		}
		require.Positive(t, failed)
	})
}

// TestCrashEverywhere drops the cache at every point of making a layer and opens what is left: no
// lease and no ref is left over (spec INIT-11, fault 29 in process).
func TestCrashEverywhere(t *testing.T) {
	for name, opt := range map[string]testutil.Option{"doubles": testutil.Doubles(), "joined": testutil.JoinedDoubles()} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			run := func(t *testing.T, n int) {
				env := testutil.New(t, opt)
				stuck := env.Faults.BlockAt(n)
				done := make(chan struct{})
				go func() {
					defer close(done)
					ref, err := env.Manager.New(ctx, nil, nil, cache.CachePolicyRetain)
					if err == nil {
						_ = ref.Release(ctx) // may fail, the cache is being dropped
					}
				}()
				<-stuck.Entered()
				// Whatever the operation still calls fails, as nothing does after a crash.
				env.Faults.Inject(fault.Match{}, fault.Fail(errors.New("crashed")))
				stuck.Release()
				<-done
				env.Crash()
				env.Faults.Reset()
				env.Open()
				require.NoError(t, env.GC(ctx))
				require.Empty(t, env.Problems(ctx))
			}
			measure := testutil.New(t, opt)
			ref, err := measure.Manager.New(ctx, nil, nil, cache.CachePolicyRetain)
			require.NoError(t, err)
			require.NoError(t, ref.Release(ctx))
			total := measure.Faults.Len()
			require.Greater(t, total, 5)
			for n := 1; n <= total; n++ {
				t.Run(fmt.Sprint(n), func(t *testing.T) { run(t, n) })
			}
		})
	}
}

// TestWriteBehindClock: what the cache writes behind is written when the clock is moved, and lost
// in a crash before that (spec META-10, design section 5).
func TestWriteBehindClock(t *testing.T) {
	ctx := context.Background()
	env := testutil.New(t)
	layer := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	require.NoError(t, layer.Finalize(ctx))
	id := layer.ID()
	env.Clock.Advance(time.Minute)
	require.NoError(t, layer.Release(ctx))
	uses := func() string {
		item, ok := env.Opt.MetadataStore.Get(id)
		require.True(t, ok)
		v := item.Get("cache.usageCount")
		if v == nil {
			return ""
		}
		return string(v.Value)
	}
	env.Crash()
	env.Open()
	require.Empty(t, uses(), "lost in the crash")
	env.Clock.Advance(time.Hour) // timers from before the crash must not disturb

	ref, err := env.Manager.Get(ctx, id, nil)
	require.NoError(t, err)
	env.Faults.Reset()
	require.NoError(t, ref.Release(ctx))
	require.Zero(t, env.Faults.Count(fault.OpDBUpdate))
	env.Clock.Advance(time.Minute)
	require.Equal(t, 1, env.Faults.Count(fault.OpDBUpdate))
	env.Crash()
	env.Open()
	require.Equal(t, "1", uses())
}

// recorder is a test whose failures are noted, to see whether the cleanup finds what is wrong.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	errs     []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow()          { runtime.Goexit() }
func (r *recorder) Helper()           {}
func (r *recorder) Cleanup(fn func()) { r.cleanups = append(r.cleanups, fn) }

// judged runs fn with an Env and returns what the cleanup found.
func judged(t *testing.T, fn func(env *testutil.Env), opts ...testutil.Option) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, cleanup := range slices.Backward(r.cleanups) {
				cleanup()
			}
		}()
		fn(testutil.New(r, opts...))
	}()
	<-done
	return r.errs
}

// TestCleanupFinds: the cleanup fails a test for each thing that it promises to look for.
func TestCleanupFinds(t *testing.T) {
	ctx := context.Background()
	stop := make(chan struct{})
	var stopped sync.WaitGroup
	defer stopped.Wait()
	defer close(stop)
	lease := func(env *testutil.Env, id string, labels map[string]string) {
		_, err := env.Opt.LeaseManager.Create(ctx, leases.WithID(id), leases.WithLabels(labels))
		require.NoError(t, err)
	}
	for name, tc := range map[string]struct {
		want string
		fn   func(env *testutil.Env)
	}{
		"nothing": {"", func(env *testutil.Env) {
			require.NoError(t, testutil.MakeLayer(t, env, nil, nil).Release(ctx))
		}},
		"closed": {"", func(env *testutil.Env) { require.NoError(t, env.Close()) }},
		"stranger's lease": {"", func(env *testutil.Env) {
			lease(env, "theirs", map[string]string{"layercache.io/store": "other", "layercache.io/record": "none"})
		}},
		"ref": {"1 refs are live", func(env *testutil.Env) {
			_, err := env.Manager.New(ctx, nil, nil, cache.CachePolicyRetain)
			require.NoError(t, err)
		}},
		"lease": {"lease orphaned: lease \"x\"", func(env *testutil.Env) {
			id, err := env.Opt.MetadataStore.StoreID()
			require.NoError(t, err)
			lease(env, "x", map[string]string{"layercache.io/store": id, "layercache.io/record": "none"})
		}},
		"temporary lease": {"temporary lease x is left", func(env *testutil.Env) {
			lease(env, "x", map[string]string{"buildkit/lease.temporary": "now"})
		}},
		"record without lease": {"has no lease", func(env *testutil.Env) {
			layer := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
			require.NoError(t, layer.Finalize(ctx))
			require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leases.Lease{ID: layer.ID()}))
			require.NoError(t, layer.Release(ctx))
		}},
		"goroutine": {"goroutines are left", func(*testutil.Env) {
			stopped.Go(func() { <-stop })
		}},
	} {
		for kind, opts := range map[string][]testutil.Option{"native": nil, "doubles": {testutil.Doubles()}} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				errs := judged(t, tc.fn, opts...)
				if tc.want == "" {
					require.Empty(t, errs)
				} else {
					require.Contains(t, strings.Join(errs, "\n"), tc.want)
				}
			})
		}
	}
}

// TestCleanupFindsMounts: a mount in the cache's directory fails the test (fault 32).
func TestCleanupFindsMounts(t *testing.T) {
	need.Mount(t)
	var dir string
	errs := judged(t, func(env *testutil.Env) {
		dir = filepath.Join(env.Dir, "mnt")
		require.NoError(t, os.Mkdir(dir, 0o755))
		m := mount.Mount{Type: "bind", Source: dir, Options: []string{"rbind"}}
		require.NoError(t, m.Mount(dir))
		t.Cleanup(func() { require.NoError(t, mount.UnmountAll(dir, 0)) })
	})
	require.Equal(t, []string{"a mount is left: " + dir}, errs)
}

// TestOpenErrors: an open cache is not opened again, and one that failed to open can be.
func TestOpenErrors(t *testing.T) {
	ctx, boom := context.Background(), errors.New("boom")
	env := testutil.New(t)
	require.Error(t, env.TryOpen(ctx))
	require.NoError(t, env.Close())
	require.NoError(t, env.Close())
	in := env.Faults.FailOp(fault.OpDBView, boom)
	require.ErrorIs(t, env.TryOpen(ctx), boom)
	in.Remove()
	env.Open()
}
