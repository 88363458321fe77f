package metadata_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/metadata"
)

// Integers written behind are seen at once, stored as Later stores them, and cheap to replace
// (spec REF-3: every Release of a counted ref passes here).
func TestLaterInts(t *testing.T) {
	s, err := metadata.NewStore(filepath.Join(t.TempDir(), "metadata_v2.db"))
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Write(func(w *metadata.Writer) error {
		_, err := w.Create("r")
		return err
	}))
	require.NoError(t, s.LaterInts("r", metadata.Int{Key: "n", Value: -7}, metadata.Int{Key: "zero"}))
	it, ok := s.Get("r")
	require.True(t, ok)
	require.JSONEq(t, `-7`, string(it.Get("n").Value))
	require.JSONEq(t, `0`, string(it.Get("zero").Value))

	allocs := testing.AllocsPerRun(100, func() {
		if err := s.LaterInts("r", metadata.Int{Key: "n", Value: 1}, metadata.Int{Key: "zero", Value: 2}); err != nil {
			t.Error(err)
		}
	})
	require.Zero(t, allocs)

	require.NoError(t, s.Flush())
	require.JSONEq(t, `1`, string(it.Get("n").Value))
	require.ErrorContains(t, s.LaterInts("", metadata.Int{Key: "n"}), "invalid")
	require.ErrorContains(t, s.LaterInts("r", metadata.Int{}), "invalid")
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.LaterInts("r", metadata.Int{Key: "n"}), metadata.ErrClosed)
}

// What a source has is written when it is due, also by Close, and nothing is asked of it otherwise.
func TestLaterFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	s, err := metadata.NewStore(path)
	require.NoError(t, err)
	require.NoError(t, s.Write(func(w *metadata.Writer) error {
		_, err := w.Create("r")
		return err
	}))
	asked := 0
	s.LaterFrom(func(add func(string, ...metadata.Int)) {
		asked++
		add("r", metadata.Int{Key: "n", Value: int64(asked)})
		add("gone", metadata.Int{Key: "n", Value: 9})
	})
	require.NoError(t, s.Flush())
	require.Zero(t, asked)
	require.NoError(t, s.LaterDue())
	require.NoError(t, s.Flush())
	require.NoError(t, s.Flush())
	require.Equal(t, 1, asked)
	require.NoError(t, s.LaterDue())
	require.NoError(t, s.Close())
	require.Equal(t, 2, asked)
	require.ErrorIs(t, s.LaterDue(), metadata.ErrClosed)

	s, err = metadata.NewStore(path)
	require.NoError(t, err)
	defer s.Close()
	it, ok := s.Get("r")
	require.True(t, ok)
	require.JSONEq(t, `2`, string(it.Get("n").Value))
	_, ok = s.Get("gone")
	require.False(t, ok, "a value does not make a row")
}
