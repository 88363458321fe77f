package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/bench/ours"
)

// The parts alone write as often as they do for the library, and nothing of it stays.
func TestBare(t *testing.T) {
	e := &env{dir: t.TempDir(), snapshotter: "native", pairs: 1, quick: true, start: time.Now()}
	for _, goroutines := range []int{1, workers} {
		l, err := bareLine(t.Context(), e, goroutines)
		require.NoError(t, err)
		require.Positive(t, l.Ours)
		require.Zero(t, l.Peer)
	}
	left, err := filepath.Glob(filepath.Join(e.dir, "*"))
	require.NoError(t, err)
	require.Empty(t, left)

	c, err := ours.Open(t.Context(), t.TempDir(), "native", nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	_, err = c.NewLayer(t.Context())
	require.NoError(t, err)
	made, err := c.CommittedSnapshots(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.BareLayer(t.Context(), "mut", "imm"))
	both, err := c.CommittedSnapshots(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, []int{made, both})
	require.ErrorContains(t, c.BareLayer(t.Context(), "mut", "imm"), "already exists", "the names are taken")
}
