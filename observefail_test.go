package cache_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// Fault 24: what fails before it has begun to change anything is told of as well: a layer on a parent that is gone, and a commit that cannot be stored.
func TestEventsOfWhatCouldNotBegin(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	gone := finalized(t, env, nil, nil)
	release(t, gone)
	require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
	mut := newMutable(t, env, nil)
	r.take()

	_, err := env.Manager.New(ctx, gone, nil)
	require.True(t, cache.IsNotFound(err))
	events := r.take()
	require.Len(t, events, 1)
	require.Equal(t, cache.EventNew, events[0].Kind)
	require.True(t, cache.IsNotFound(events[0].Err))

	env.Faults.FailOp(fault.OpDBUpdate, errBackend)
	_, err = mut.Commit(ctx)
	require.ErrorIs(t, err, errBackend)
	env.Faults.Reset()
	events = r.take()
	require.Len(t, events, 1)
	require.ErrorIs(t, events[0].Err, errBackend)
	events[0].Err = nil
	require.Equal(t, cache.Event{Kind: cache.EventCommit, ID: mut.ID()}, events[0])
	release(t, mut)
}

// Spec VAR-5: a conversion is told of with all that it took and with what it ended with, though the blob itself may have been made.
func TestEventsOfAConversion(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	reg := newRegistry()
	ref := byBlob(t, env, reg, reg.layer(t, "gzip", tree.File("f", "text")), nil)
	require.NoError(t, ref.Extract(ctx, nil))
	converted := func() (cache.Event, error) {
		r.take()
		_, err := ref.GetRemotes(ctx, true, forced(codec.Zstd), false, nil)
		for _, ev := range r.take() {
			if ev.Kind == cache.EventConvert {
				return ev, err
			}
		}
		require.Fail(t, "no conversion is told of")
		return cache.Event{}, nil
	}

	env.Faults.FailOp(fault.OpContentUpdate, errBackend) // the blob is there, and cannot be linked
	ev, err := converted()
	require.ErrorIs(t, err, errBackend)
	require.ErrorIs(t, ev.Err, errBackend)
	env.Faults.Reset()

	env.Faults.Inject(fault.Match{Op: fault.OpLeaseCreate, When: fault.Before}, func(context.Context, fault.Point) error {
		env.Clock.Advance(3 * time.Second)
		return nil
	})
	before := env.Clock.Now()
	ev, err = converted()
	require.NoError(t, err)
	require.NoError(t, ev.Err)
	require.NotZero(t, ev.Duration)
	require.Equal(t, env.Clock.Now().Sub(before), ev.Duration)
	require.NotZero(t, ev.Size)
	env.Faults.Reset()
	release(t, ref)
}

// Spec LOCK-2, quirk Q33: an observer may look at a record whose view is collected, since its snapshot has vanished.
func TestObserverCallsBackAboutALoss(t *testing.T) {
	r, opts := observed(testutil.Doubles())
	env := testutil.New(t, opts...)
	reg := newRegistry()
	ref := byBlob(t, env, reg, reg.layer(t, "gzip", tree.File("f", "text")), nil)
	requireFile(t, ref, "f", "text")
	patient, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	looked := 0
	r.react = func(ev cache.Event) {
		if ev.Kind == cache.EventCollect {
			looked++
			_, err := ref.Mount(patient, true, nil)
			require.NoError(t, err)
		}
	}
	require.NoError(t, env.Double.LoseSnapshot(snapshotOf(t, env, ref.ID())))
	require.NoError(t, ref.Extract(ctx, nil))
	require.Equal(t, 1, looked)
	r.react = nil
	release(t, ref)
}
