package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A test binary that is asked to count does so in place of its tests, as the program itself does.
func TestMain(m *testing.M) {
	quiet()
	if request := os.Getenv(childEnv); request != "" {
		os.Exit(exitStatus(runChild(context.Background(), request, os.Stdout)))
	}
	os.Exit(m.Run())
}

// The counts see what the peer is known to do: two fdatasync for a Get and Release, and for a
// record on the native snapshotter 18 write transactions.
func TestCountsOfThePeer(t *testing.T) {
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	peer, ours, err := e.count(t.Context(), countRequest{Work: workGetRelease, Warm: 2, Ops: 5})
	require.NoError(t, err)
	require.InDelta(t, 2, peer.Fdatasync, 0)
	require.Positive(t, peer.Allocs)
	require.Zero(t, ours.Fdatasync)
	require.Zero(t, ours.Calls)

	peer, ours, err = e.count(t.Context(), countRequest{Work: workCommit, Warm: 2, Ops: 5})
	require.NoError(t, err)
	require.InDelta(t, 36, peer.Fdatasync, 0)
	require.Less(t, ours.Fdatasync, peer.Fdatasync)
	require.Positive(t, ours.Calls)
}

func TestCountFailures(t *testing.T) {
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	_, _, err := e.count(t.Context(), countRequest{Work: "nothing"})
	require.ErrorContains(t, err, `work "nothing" is unknown`)
	e.snapshotter = "stargz"
	_, _, err = e.count(t.Context(), countRequest{Work: workCommit, Ops: 1})
	require.ErrorContains(t, err, `snapshotter "stargz" is unknown`)
	entries, err := os.ReadDir(e.dir)
	require.NoError(t, err)
	require.Empty(t, entries, "what counting made is removed")
}

// The two sides are held to what they have made.
func TestCensus(t *testing.T) {
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	err := e.withBoth(t.Context(), func(b both) error {
		for _, s := range []side{b.peer, b.ours} {
			id, err := s.NewLayer(t.Context())
			require.NoError(t, err)
			require.NoError(t, s.GetRelease(t.Context(), id))
			require.Error(t, s.GetRelease(t.Context(), "nobody"))
		}
		require.NoError(t, b.check(t.Context(), 1))
		return b.check(t.Context(), 2)
	})
	require.ErrorContains(t, err, "wrong result of peer: 1 records")
}
