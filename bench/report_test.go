package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Wrong arguments are found before any work is done, and a small run writes no report.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []flags{{rows: "x", dir: dir}, {pairs: -1, dir: dir}, {dir: filepath.Join(dir, "none"), quick: true}} {
		require.Error(t, run(t.Context(), f, nil))
	}
	require.Error(t, run(t.Context(), flags{dir: dir, quick: true}, []string{"extra"}))

	before, err := os.ReadFile(reportPath)
	if err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	out := filepath.Join(dir, "out.json")
	require.NoError(t, run(t.Context(), flags{rows: "1", quick: true, json: out, dir: dir}, nil))
	require.FileExists(t, out)
	after, err := os.ReadFile(reportPath)
	if err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	require.Equal(t, before, after)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "only what was asked for stays")
}
