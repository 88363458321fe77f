package fault_test

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/testutil/double"
	"github.com/layercache/cache/testutil/fault"
)

const killEnv = "LAYERCACHE_TEST_KILL_AT"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func create(ctx context.Context, lm leases.Manager, ids ...string) error {
	for _, id := range ids {
		if _, err := lm.Create(ctx, leases.WithID(id)); err != nil {
			return err
		}
	}
	return nil
}

// TestNumbers: points are numbered from 1 in order, and Reset starts anew.
func TestNumbers(t *testing.T) {
	f := fault.New()
	lm := f.LeaseManager(double.New().LeaseManager())
	require.NoError(t, create(context.Background(), lm, "a", "b"))
	require.Equal(t, fault.Trace{
		{N: 1, Op: fault.OpLeaseCreate, Key: "a", When: fault.Before},
		{N: 2, Op: fault.OpLeaseCreate, Key: "a", When: fault.After},
		{N: 3, Op: fault.OpLeaseCreate, Key: "b", When: fault.Before},
		{N: 4, Op: fault.OpLeaseCreate, Key: "b", When: fault.After},
	}, f.Trace())
	require.Equal(t, []string{fault.OpLeaseCreate, fault.OpLeaseCreate}, f.Trace().Ops())
	require.Equal(t, map[string]int{fault.OpLeaseCreate: 2}, f.Counts())
	require.Equal(t, 2, f.Count("leases.*"))
	require.Contains(t, f.Trace().String(), "  4 after  leases.Create b\n")

	require.NoError(t, create(fault.Quiet(context.Background()), lm, "c"))
	require.Equal(t, 4, f.Len(), "quiet calls pass no points")
	f.Quietly(func() { require.NoError(t, create(context.Background(), lm, "quiet")) })
	require.Equal(t, 4, f.Len())

	f.Reset()
	require.Zero(t, f.Len())
	require.Zero(t, f.Count("*"))
	require.NoError(t, create(context.Background(), lm, "d"))
	require.Equal(t, 1, f.Trace()[0].N)
}

// TestRandomIDStays: the wrapper may run the options only once, as they may draw a random ID.
func TestRandomIDStays(t *testing.T) {
	f := fault.New()
	lm := f.LeaseManager(double.New().LeaseManager())
	drawn := 0
	l, err := lm.Create(context.Background(), leases.WithRandomID(), func(*leases.Lease) error {
		drawn++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, drawn)
	require.Equal(t, l.ID, f.Trace()[0].Key)
}

// TestMatch: patterns, sides, keys and the number of times.
func TestMatch(t *testing.T) {
	ctx, boom := context.Background(), errors.New("boom")
	for name, tc := range map[string]struct {
		match fault.Match
		fails []bool // creating a, b, a2
	}{
		"all":        {fault.Match{}, []bool{true, true, true}},
		"op":         {fault.Match{Op: "*.Create"}, []bool{true, true, true}},
		"other op":   {fault.Match{Op: "*.Delete"}, []bool{false, false, false}},
		"op in part": {fault.Match{Op: "Create"}, []bool{false, false, false}},
		"key":        {fault.Match{Key: "a*"}, []bool{true, false, true}},
		"whole key":  {fault.Match{Key: "a"}, []bool{true, false, false}},
		"stars":      {fault.Match{Op: "l*s.C*te"}, []bool{true, true, true}},
		"once":       {fault.Match{Times: 1}, []bool{true, false, false}},
		"after":      {fault.Match{When: fault.After, Key: "b"}, []bool{false, true, false}},
		"number":     {fault.Match{N: 4}, []bool{false, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			f := fault.New()
			lm := f.LeaseManager(double.New().LeaseManager())
			in := f.Inject(tc.match, fault.Fail(boom))
			hits := 0
			for i, id := range []string{"a", "b", "a2"} {
				err := create(ctx, lm, id)
				if tc.fails[i] {
					require.ErrorIs(t, err, boom)
					hits++
				} else {
					require.NoError(t, err)
				}
			}
			require.Equal(t, hits, in.Fired())
			require.Equal(t, hits == 0, len(f.Pending()) == 1)
			in.Remove()
			in.Remove()
			require.NoError(t, create(ctx, lm, "z"))
		})
	}
}

// TestNilErrorFails: an injection that could do nothing is made to do something.
func TestNilErrorFails(t *testing.T) {
	f := fault.New()
	f.FailOp("*", nil)
	require.Error(t, create(context.Background(), f.LeaseManager(double.New().LeaseManager()), "a"))
}

// TestCancel: a call whose context has ended fails, before as well as after it was made, and
// cleaning up with that context fails, too (spec LEASE-4).
func TestCancel(t *testing.T) {
	for n := 1; n <= 2; n++ {
		f, b := fault.New(), double.New()
		lm := f.LeaseManager(b.LeaseManager())
		ctx, cancel := context.WithCancel(context.Background())
		f.CancelAt(n, cancel)
		require.ErrorIs(t, create(ctx, lm, "a"), context.Canceled)
		require.Empty(t, f.Pending())
		require.ErrorIs(t, lm.Delete(ctx, leases.Lease{ID: "a"}), context.Canceled)
		ls, err := b.LeaseManager().List(context.Background())
		require.NoError(t, err)
		require.Len(t, ls, n-1, "the lease is there if the call was made")
	}
}

// TestRunAt: what runs at a point may use the wrapped backend itself without passing points, and
// what runs is told where it is (fault 4).
func TestRunAt(t *testing.T) {
	f, b := fault.New(), double.New()
	lm := f.LeaseManager(b.LeaseManager())
	var at fault.Point
	f.RunAt(2, func(ctx context.Context, p fault.Point) {
		at = p
		require.NoError(t, create(ctx, lm, "inner"))
	})
	require.NoError(t, create(context.Background(), lm, "outer"))
	require.Equal(t, fault.Point{N: 2, Op: fault.OpLeaseCreate, Key: "outer", When: fault.After}, at)
	require.Equal(t, 2, f.Len())
	ls, err := b.LeaseManager().List(context.Background())
	require.NoError(t, err)
	require.Len(t, ls, 2)
}

// TestBlock: a blocked call goes on when released, and ends with its context (fault 26).
func TestBlock(t *testing.T) {
	f := fault.New()
	lm := f.LeaseManager(double.New().LeaseManager())
	block := f.BlockOp(fault.OpLeaseCreate)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- create(ctx, lm, "a") }()
	<-block.Entered()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	go func() { done <- create(context.Background(), lm, "b") }()
	_, err := lm.List(context.Background())
	require.NoError(t, err, "other calls go on")
	block.Release()
	block.Release()
	require.NoError(t, <-done)
	require.NoError(t, create(context.Background(), lm, "c"))
	require.Equal(t, 3, block.Fired())

	f.Reset()
	at := f.BlockAt(2)
	go func() { done <- create(context.Background(), lm, "d") }()
	<-at.Entered()
	at.Release()
	require.NoError(t, <-done)
}

// TestOnPoint: the hook is called at every point, by the goroutine that makes the call and with no
// mutex of the Faults held, and stays over Reset (fault 24).
func TestOnPoint(t *testing.T) {
	f := fault.New()
	lm := f.LeaseManager(double.New().LeaseManager())
	var points []fault.Point
	f.OnPoint(func(p fault.Point) {
		f.Len()
		points = append(points, p)
	})
	require.NoError(t, create(context.Background(), lm, "a"))
	f.Reset()
	require.NoError(t, create(context.Background(), lm, "b"))
	require.Len(t, points, 4)
}

// TestRace uses everything at once; the race detector judges, and no number is given twice.
func TestRace(t *testing.T) {
	f := fault.New()
	lm := f.LeaseManager(double.New().LeaseManager())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for range 50 {
				in := f.FailOp(fault.OpLeaseDelete, errors.New("boom"))
				_, err := lm.Create(context.Background(), leases.WithRandomID())
				if err != nil {
					t.Errorf("goroutine %d: %v", g, err)
				}
				f.Trace()
				f.Count("*")
				in.Remove()
			}
		})
	}
	wg.Wait()
	for i, p := range f.Trace() {
		require.Equal(t, i+1, p.N)
	}
	require.Equal(t, 400, f.Count(fault.OpLeaseCreate))
}

// TestKill: the process dies at the point, by a signal and without running anything more (fault 29).
func TestKill(t *testing.T) {
	if os.Getenv(killEnv) != "" {
		defer os.Exit(0) // must not run
		f := fault.New()
		f.KillAt(2)
		_ = create(context.Background(), f.LeaseManager(double.New().LeaseManager()), "a", "b")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), killEnv+"=2")
	err := cmd.Run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, status.Signaled())
	require.Equal(t, syscall.SIGKILL, status.Signal())
}
