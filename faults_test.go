package cache_test

import (
	"context"
	"hash/fnv"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

var faultBackends = map[string][]testutil.Option{
	"doubles":  {testutil.Doubles()},
	"joined":   {testutil.JoinedDoubles()},
	"separate": {testutil.Doubles(), testutil.Separate()},
}

// eachPoint runs an operation once per fault point with trouble there.
func eachPoint(t *testing.T, when string, trouble func(env *testutil.Env, point int) context.Context, after func(t *testing.T, s *scene, point int, err error)) {
	for backend, opts := range faultBackends {
		for name, op := range operations {
			if op.crash {
				continue
			}
			t.Run(backend+"/"+name, func(t *testing.T) {
				points, step := 1, stepOf(t, op)
				for n := 1; n <= points; n += step {
					ok := t.Run("", func(t *testing.T) {
						env := testutil.New(t, opts...)
						s := newScene(t, env, op)
						if n == 1 {
							require.NoError(t, op.do(ctx, s))
							points = env.Faults.Len()
							require.NotZero(t, points)
							s.end(t, op, "no fault", 0)
							s = newScene(t, env, op)
							n = min(1+seedOf(t)%step, points)
						}
						opCtx := trouble(env, n)
						err := op.do(opCtx, s)
						after(t, s, n, err)
						s.end(t, op, when, n)
					})
					if !ok {
						return
					}
				}
			})
		}
	}
}

// stepOf tells how far apart the points are that a sweep tries: every point with LAYERCACHE_SWEEP=full, as in .ci/full, and by
// default for operations of few calls. Those on layers from blobs make many, and those on many records even more. With -short, as under
// the race detector in .ci/run, they are five times as far apart.
func stepOf(t *testing.T, op operation) int {
	t.Helper()
	step := 29
	switch {
	case os.Getenv("LAYERCACHE_SWEEP") == "full":
		return 1
	case !op.blob:
		step = 1
	case op.many:
		step = 97
	}
	if testing.Short() {
		step *= 5
	}
	return step
}

// seedOf is a number that each test has its own of, so that sweeps of one operation do not all try the same points.
func seedOf(t *testing.T) int {
	t.Helper()
	h := fnv.New32a()
	_, _ = h.Write([]byte(t.Name()))
	return int(h.Sum32() % (1 << 20))
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

// inTransaction tells whether anybody is in a transaction of the backend.
func inTransaction(trace fault.Trace) bool {
	open := 0
	for _, p := range trace {
		switch {
		case p.Op == fault.OpTransactionFn && p.When == fault.Before:
			open++
		case p.Op == fault.OpTransaction && p.When == fault.After:
			open--
		}
	}
	return open > 0
}
