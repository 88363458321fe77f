package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	require.Zero(t, median(nil))
	require.Equal(t, 2*time.Second, median([]time.Duration{3 * time.Second, time.Second, 2 * time.Second}))
	require.Equal(t, 1500*time.Millisecond, median([]time.Duration{2 * time.Second, time.Second}))
}

// TestTable: columns have one width, and a ratio is stock's time by ours.
func TestTable(t *testing.T) {
	r := report{lines: []line{{"a build", 3 * time.Second, 1500 * time.Millisecond}, {"a start", 250 * time.Millisecond, 50 * time.Millisecond}}}
	lines := strings.Split(strings.TrimSpace(r.table()), "\n")
	require.Equal(t, []string{
		"| work    |  stock |  ours | ratio |",
		"| ------- | -----: | ----: | ----: |",
		"| a build |    3 s | 1.5 s | 2.00x |",
		"| a start | 250 ms | 50 ms | 5.00x |",
	}, lines)
	require.Contains(t, r.markdown(), r.table())
}

// TestWrite: the section takes the place of the one before, and nothing else of the document is touched.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	const above = "# Benchmarks\n\n## Whole buildings\n\nrows\n"
	require.NoError(t, os.WriteFile(path, []byte(above), 0o600))
	for _, work := range []string{"a build", "another build"} {
		r := report{lines: []line{{work, time.Second, time.Second}}}
		require.NoError(t, r.write(path))
		dt, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, above+r.markdown(), string(dt))
	}
	require.ErrorIs(t, report{}.write(filepath.Join(t.TempDir(), "benchmarks.md")), fs.ErrNotExist)
}

// TestRunRefuses has flags that make no sense.
func TestRunRefuses(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), flags{pairs: 1}, []string{"x"}), "unexpected")
	require.ErrorContains(t, run(t.Context(), flags{}, nil), "positive")
}
