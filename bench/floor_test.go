package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The disk is measured with what it is said to be measured with, and nothing stays.
func TestFloor(t *testing.T) {
	dir := t.TempDir()
	f, err := newDiskFloor(dir)
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, f.op(14)(t.Context(), i))
	}
	require.NoError(t, f.close())
	made, err := filepath.Glob(filepath.Join(dir, "new-*", "*"))
	require.NoError(t, err)
	require.Len(t, made, 6)
	for _, file := range f.files {
		require.FileExists(t, file.Name())
	}
	require.Error(t, f.op(2)(t.Context(), 0), "files that are closed cannot be synced")

	e := &env{dir: t.TempDir(), pairs: 1, quick: true, start: time.Now()}
	l, err := floorLine(t.Context(), e, "work", 8, 2)
	require.NoError(t, err)
	require.Positive(t, l.Peer)
	require.Positive(t, l.Ours)
	left, err := filepath.Glob(filepath.Join(e.dir, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
