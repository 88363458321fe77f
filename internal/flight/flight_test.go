package flight_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/internal/flight"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSlotsAdmitOneHolderAKey(t *testing.T) { // spec LOCK-1
	var s flight.Slots[string]
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			leave, err := s.Enter(context.Background(), "k")
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			inside.Add(-1)
			leave()
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, most.Load())
	require.Zero(t, s.Len(), "a slot nobody wants must not stay")
}

func TestSlotsWaiterCanGiveUpAlone(t *testing.T) { // fault 26
	var s flight.Slots[int]
	leave, err := s.Enter(context.Background(), 1)
	require.NoError(t, err)

	other, err := s.Enter(context.Background(), 2)
	require.NoError(t, err, "another key is not held up")
	other()

	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	_, err = s.Enter(ctx, 1)
	require.ErrorIs(t, err, why)

	leave()
	leave, err = s.Enter(ctx, 1)
	require.NoError(t, err, "spec LEASE-4: cleaning up must not depend on the caller's context")
	leave()
	require.Zero(t, s.Len())
}

type ctxKey struct{ n int }

func TestGroupSharesOneExecution(t *testing.T) {
	var g flight.Group[string, int]
	var runs atomic.Int32
	started, finish := make(chan struct{}), make(chan struct{})
	fn := func(context.Context) (int, error) {
		runs.Add(1)
		close(started)
		<-finish
		return 42, nil
	}
	results := make(chan int, 5)
	var wg sync.WaitGroup
	do := func() {
		v, err := g.Do(context.Background(), "k", fn)
		if err != nil {
			t.Error(err)
		}
		results <- v
	}
	wg.Go(do)
	<-started
	joined := make(chan struct{}, 4)
	for i := range 4 {
		ctx := joinSignal{context.WithValue(context.Background(), ctxKey{i}, i), joined}
		wg.Go(func() {
			v, err := g.Do(ctx, "k", fn)
			if err != nil {
				t.Error(err)
			}
			results <- v
		})
	}
	for range 4 {
		<-joined // each asks its own context for Done only once it has joined
	}
	close(finish)
	wg.Wait()
	for range 5 {
		require.Equal(t, 42, <-results)
	}
	require.EqualValues(t, 1, runs.Load())
}

type joinSignal struct {
	context.Context
	ch chan struct{}
}

func (c joinSignal) Done() <-chan struct{} {
	c.ch <- struct{}{}
	return c.Context.Done()
}

func TestGroupFirstWaiterGivesUpAloneAndItsValuesStay(t *testing.T) { // quirk Q37, spec EXT-12
	var g flight.Group[string, any]
	started, finish := make(chan struct{}), make(chan struct{})
	fn := func(ctx context.Context) (any, error) {
		close(started)
		<-finish
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return []any{ctx.Value(ctxKey{1}), ctx.Value(ctxKey{2}), ctx.Value(ctxKey{3})}, nil
	}
	first, cancel := context.WithCancel(context.WithValue(context.Background(), ctxKey{1}, "first"))
	firstErr := make(chan error, 1)
	go func() {
		_, err := g.Do(first, "k", fn)
		firstErr <- err
	}()
	<-started

	joined := make(chan struct{}, 1)
	second := joinSignal{context.WithValue(context.Background(), ctxKey{2}, "second"), joined}
	got := make(chan any, 1)
	go func() {
		v, err := g.Do(second, "k", fn)
		if err != nil {
			v = err
		}
		got <- v
	}()
	<-joined
	cancel()
	require.ErrorIs(t, <-firstErr, context.Canceled)
	close(finish)
	require.Equal(t, []any{"first", "second", nil}, <-got)
	g.Wait()
}

func TestGroupCancelsWhenAllHaveGoneAndStartsAnew(t *testing.T) { // quirk Q77
	var g flight.Group[string, int]
	started, cancelled, torn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	why := errors.New("nobody wants it")
	ctx, cancel := context.WithCancelCause(context.Background())
	errs := make(chan error, 1)
	go func() {
		_, err := g.Do(ctx, "k", func(ctx context.Context) (int, error) {
			close(started)
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), why) {
				return 0, errors.New("wrong cause")
			}
			close(cancelled)
			<-torn
			return 0, ctx.Err()
		})
		errs <- err
	}()
	<-started
	cancel(why)
	require.ErrorIs(t, <-errs, why)
	<-cancelled

	impatient, stop := context.WithCancel(context.Background())
	stop()
	_, err := g.Do(impatient, "k", func(context.Context) (int, error) { return 1, nil })
	require.ErrorIs(t, err, context.Canceled, "a newcomer honours its own context while the old execution ends")

	res := make(chan int, 1)
	go func() {
		v, err := g.Do(context.Background(), "k", func(context.Context) (int, error) { return 7, nil })
		if err != nil {
			t.Error(err)
		}
		res <- v
	}()
	close(torn)
	require.Equal(t, 7, <-res)
	g.Wait()
}

func TestGroupDoesNotKeepResults(t *testing.T) {
	var g flight.Group[string, int]
	n := 0
	for want := 1; want <= 3; want++ {
		v, err := g.Do(context.Background(), "k", func(context.Context) (int, error) { n++; return n, nil })
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	boom := errors.New("boom")
	_, err := g.Do(context.Background(), "k", func(context.Context) (int, error) { return 0, boom })
	require.ErrorIs(t, err, boom)
}

// TestLimitOrder: no more than Max are inside, and those who wait come in by their ranks.
func TestLimitOrder(t *testing.T) {
	l := flight.Limit[string]{Max: 2}
	ctx := t.Context()
	var leave [2]func()
	for i := range leave {
		var err error
		leave[i], err = l.Enter(ctx, "a", flight.Rank{Call: 9})
		require.NoError(t, err)
	}
	other, err := l.Enter(ctx, "b", flight.Rank{})
	require.NoError(t, err, "another key is free")
	other()

	ranks := []flight.Rank{{Call: 2, Step: -1}, {Call: 2, Step: -3}, {Call: 1}, {Call: 2, Step: -2}, {Call: 3, Step: -9}, {Call: 1}}
	entered := make(chan int, len(ranks))
	for i, rank := range ranks {
		go func() {
			leave, err := l.Enter(ctx, "a", rank)
			if err == nil {
				entered <- i
				leave()
			}
		}()
		require.Eventually(t, func() bool { return l.Waiting("a") == i+1 }, 10*time.Second, time.Millisecond)
	}
	require.Empty(t, entered)

	// Who gives up leaves the order of the others as it is.
	short, cancel := context.WithCancelCause(ctx)
	gone := make(chan error, 1)
	go func() {
		_, err := l.Enter(short, "a", flight.Rank{})
		gone <- err
	}()
	require.Eventually(t, func() bool { return l.Waiting("a") == len(ranks)+1 }, 10*time.Second, time.Millisecond)
	cause := errors.New("no more interest")
	cancel(cause)
	require.ErrorIs(t, <-gone, cause)

	leave[0]() // they follow each other through the one free place
	for _, want := range []int{2, 5, 1, 3, 0, 4} {
		require.Equal(t, want, <-entered)
	}
	leave[1]()
	// The last of them said that he was in before he left.
	require.Eventually(t, func() bool { return l.Len() == 0 }, 10*time.Second, time.Millisecond)
}

// TestLimitUnderLoad: with many who come, go and give up, there are never more than Max inside, and nobody is forgotten.
func TestLimitUnderLoad(t *testing.T) {
	l := flight.Limit[int]{Max: 3}
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%3 == 0 {
				go cancel()
			}
			leave, err := l.Enter(ctx, 1, flight.Rank{Call: uint64(i % 7)})
			if err != nil {
				return
			}
			n := inside.Add(1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			runtime.Gosched()
			inside.Add(-1)
			leave()
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(3))
	require.Zero(t, l.Len())
}

// Who does not want to wait takes what is free, and leaves alone what is not.
func TestTryEnter(t *testing.T) {
	ctx := context.Background()
	var s flight.Slots[string]
	leave, ok := s.TryEnter("k")
	require.True(t, ok)
	_, ok = s.TryEnter("k")
	require.False(t, ok)
	waiting := make(chan error, 1)
	go func() {
		next, err := s.Enter(ctx, "k")
		if err == nil {
			defer next()
		}
		waiting <- err
	}()
	leave()
	require.NoError(t, <-waiting, "who waits comes in after one who did not have to")
	require.Eventually(t, func() bool { return s.Len() == 0 }, 10*time.Second, time.Millisecond)

	l := flight.Limit[string]{Max: 2}
	var leaves []func()
	for range 2 {
		leave, ok := l.TryEnter("k")
		require.True(t, ok)
		leaves = append(leaves, leave)
	}
	_, ok = l.TryEnter("k")
	require.False(t, ok)
	other, ok := l.TryEnter("other")
	require.True(t, ok)
	other()
	leaves[0]()
	next, err := l.Enter(ctx, "k", flight.Rank{})
	require.NoError(t, err)
	_, ok = l.TryEnter("k")
	require.False(t, ok)
	next()
	leaves[1]()
	require.Zero(t, l.Len())
}
