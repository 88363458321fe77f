package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// scene is a cache with one finalized layer that is held, on which an operation is tried. What
// is held must survive whatever goes wrong; what the operation made must be whole or gone.
type scene struct {
	env  *testutil.Env
	held cache.ImmutableRef
	// mut is a mutable record, pair a committed and idle one, both retained.
	mut    cache.MutableRef
	pairID string // its immutable name
	openID string // its mutable name
}

const heldText = "held"

func newScene(t *testing.T, env *testutil.Env) *scene {
	t.Helper()
	s := &scene{env: env}
	s.held = testutil.MakeLayer(t, env, nil, func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte(heldText), 0o600))
	}, cache.CachePolicyRetain)
	require.NoError(t, s.held.Finalize(ctx))
	s.mut = newMutable(t, env, s.held, cache.CachePolicyRetain)
	pair := testutil.MakeLayer(t, env, s.held, nil, cache.CachePolicyRetain)
	s.pairID, s.openID = pair.ID(), mutableID(t, env, pair)
	release(t, pair)
	env.Faults.Reset()
	return s
}

// end checks what must hold after any failure and lets go of everything.
func (s *scene) end(t *testing.T, when string, point int) {
	t.Helper()
	s.env.Faults.Reset()
	testutil.WithMount(t, s.held, true, func(dir string) {
		got, err := os.ReadFile(filepath.Join(dir, "f"))
		require.NoError(t, err, "%s %d", when, point)
		require.Equal(t, heldText, string(got))
	})
	release(t, s.mut, s.held)
	prune(t, s.env, usage.PruneInfo{All: true})
	requireUsage(t, s.env, 0, 0)
	require.Empty(t, leaseIDs(t, s.env), "%s %d", when, point)
	require.Empty(t, snapshotNames(t, s.env), "%s %d", when, point)
}

// operations are what is tried at every fault point. Each lets go of what it gets; later issues
// add theirs.
var operations = map[string]func(ctx context.Context, s *scene) error{
	"new": func(ctx context.Context, s *scene) error {
		ref, err := s.env.Manager.New(ctx, s.held, nil)
		if err != nil {
			return err
		}
		return ref.Release(ctx)
	},
	"commit": func(ctx context.Context, s *scene) error {
		ref, err := s.mut.Commit(ctx)
		if err != nil {
			return err
		}
		return ref.Release(ctx)
	},
	"finalize": func(ctx context.Context, s *scene) error {
		ref, err := s.env.Manager.Get(ctx, s.pairID, nil)
		if err != nil {
			return err
		}
		err = ref.Finalize(ctx)
		if rerr := ref.Release(ctx); err == nil {
			err = rerr
		}
		return err
	},
	"reopen": func(ctx context.Context, s *scene) error {
		ref, err := s.env.Manager.GetMutable(ctx, s.openID)
		if err != nil {
			return err
		}
		return ref.Release(ctx)
	},
	"child of a pair": func(ctx context.Context, s *scene) error {
		pair, err := s.env.Manager.Get(ctx, s.pairID, nil)
		if err != nil {
			return err
		}
		ref, err := s.env.Manager.New(ctx, pair, nil)
		if err == nil {
			err = ref.Release(ctx)
		}
		if rerr := pair.Release(ctx); err == nil {
			err = rerr
		}
		return err
	},
	"mount": func(ctx context.Context, s *scene) error {
		ref, err := s.env.Manager.Get(ctx, s.pairID, nil)
		if err != nil {
			return err
		}
		_, err = ref.Mount(ctx, true, nil)
		if err == nil {
			_, err = ref.Mount(ctx, false, nil)
		}
		if rerr := ref.Release(ctx); err == nil {
			err = rerr
		}
		return err
	},
	"set": func(_ context.Context, s *scene) error {
		if err := s.mut.SetString("k", "v", "i:v"); err != nil {
			return err
		}
		if err := s.mut.SetExternal("x", []byte("data")); err != nil {
			return err
		}
		return s.mut.ClearValueAndIndex("k", "i:")
	},
	"du": func(ctx context.Context, s *scene) error {
		_, err := s.env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
		return err
	},
	"prune": func(ctx context.Context, s *scene) error {
		return s.env.Manager.Prune(ctx, nil, usage.PruneInfo{All: true})
	},
}

var faultBackends = map[string][]testutil.Option{
	"doubles":  {testutil.Doubles()},
	"joined":   {testutil.JoinedDoubles()},
	"separate": {testutil.Doubles(), testutil.Separate()},
}

// eachPoint runs an operation once per fault point with trouble there.
func eachPoint(t *testing.T, when string, trouble func(env *testutil.Env, point int) context.Context, after func(t *testing.T, s *scene, point int, err error)) {
	for backend, opts := range faultBackends {
		for name, op := range operations {
			t.Run(backend+"/"+name, func(t *testing.T) {
				points := 1
				for n := 1; n <= points; n++ {
					ok := t.Run("", func(t *testing.T) {
						env := testutil.New(t, opts...)
						s := newScene(t, env)
						if n == 1 {
							require.NoError(t, op(ctx, s))
							points = env.Faults.Len()
							require.NotZero(t, points)
							s.end(t, "no fault", 0)
							s = newScene(t, env)
						}
						opCtx := trouble(env, n)
						err := op(opCtx, s)
						after(t, s, n, err)
						s.end(t, when, n)
					})
					if !ok {
						return
					}
				}
			})
		}
	}
}

// Faults 21, 23; quirks Q16, Q17, Q19, Q28, Q30, Q71; spec MGR-3, MGR-12, REF-9, REF-12, REF-14, REF-18, MNT-4, LEASE-8: a call
// to the backend fails, or was made and its answer lost.
func TestBackendFailsAtEveryPoint(t *testing.T) {
	eachPoint(t, "failure at point", func(env *testutil.Env, n int) context.Context {
		env.Faults.FailAt(n, errdefs.ErrUnavailable)
		return ctx
	}, func(t *testing.T, s *scene, n int, err error) {
		if err != nil {
			require.True(t, errdefs.IsUnavailable(err), "point %d: %v", n, err)
		}
	})
}

// Spec LEASE-4, fault 26: the caller's context ends at every point; what has to be taken back is.
func TestCancelledAtEveryPoint(t *testing.T) {
	eachPoint(t, "cancellation at point", func(env *testutil.Env, n int) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		env.Faults.CancelAt(n, cancel)
		return ctx
	}, func(*testing.T, *scene, int, error) {})
}

// Fault 4: what no lease protects is collected at every point; nothing that is held is lost.
func TestGarbageCollectionAtEveryPoint(t *testing.T) {
	eachPoint(t, "collection at point", func(env *testutil.Env, n int) context.Context {
		env.Faults.RunAt(n, func(context.Context, testutil.Point) {
			if !inTransaction(env.Faults.Trace()) { // nothing is collected during one
				if err := env.GC(ctx); err != nil {
					panic(err)
				}
			}
		})
		return ctx
	}, func(t *testing.T, s *scene, n int, err error) {
		require.NoError(t, err, "point %d", n)
	})
}

func inTransaction(trace fault.Trace) bool {
	for i := len(trace) - 1; i >= 0; i-- {
		switch p := trace[i]; {
		case p.Op == fault.OpTransactionFn:
			return true
		case p.Op == fault.OpTransaction && p.When == fault.After:
			return false
		}
	}
	return false
}
