package metadata

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// checkSalvage opens a copy of a file that may be damaged and demands of whatever comes of it
// what always holds: the bytes are still there, what was salvaged is in order and stays so, and
// what the report says is so.
func checkSalvage(t testing.TB, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	dir, err := os.MkdirTemp(filepath.Dir(path), "salvage")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	path = filepath.Join(dir, "db")
	require.NoError(t, os.WriteFile(path, content, 0o640))
	require.NoError(t, os.Chmod(path, 0o640))
	s, err := NewStore(path)
	if err != nil {
		if !errors.Is(err, ErrNotDatabase) {
			t.Errorf("unexpected error: %v", err)
		}
		requireOnly(t, dir, map[string][]byte{"db": content})
		return
	}
	report := s.Salvaged()
	if report == nil {
		requireNames(t, dir, "db")
		require.NoError(t, s.Close()) // which writes a free list
		return
	}
	require.ErrorIs(t, report.Reason, ErrCorrupt)
	require.Equal(t, path, report.Path)
	require.Equal(t, path+".damaged-1", report.Damaged)
	requireNames(t, dir, "db", "db.damaged-1")
	require.Len(t, allIDs(t, s), report.Records)
	require.NoError(t, s.Close())
	kept, err := os.ReadFile(report.Damaged)
	require.NoError(t, err)
	require.True(t, string(content) == string(kept), "the damaged file was changed")
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), fi.Mode())

	s, err = NewStore(path, WithoutSalvage())
	require.NoError(t, err)
	require.Nil(t, s.Salvaged())
	requireIndexed(t, s)
	require.NoError(t, use(t, s))
	requireNames(t, dir, "db", "db.damaged-1")
}

// requireIndexed demands that the index has what the values name, and nothing else.
func requireIndexed(t testing.TB, s *Store) {
	t.Helper()
	want := map[string]bool{}
	require.NoError(t, s.Scan(func(id []byte, row RowView) error {
		return row.Each(func(_ []byte, v RawValue) error {
			if index := v.Index(); index != "" {
				want[index+"::"+string(id)] = true
			}
			return nil
		})
	}))
	got := map[string]bool{}
	for _, e := range entries(t, s) {
		got[e] = true
	}
	require.Equal(t, want, got)
}

// requireNames demands that a directory has these files and no others.
func requireNames(t testing.TB, dir string, names ...string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	require.NoError(t, err)
	got := []string{}
	for _, e := range found {
		got = append(got, e.Name())
	}
	require.Equal(t, names, got)
}

// requireOnly demands that a directory has these files with these bytes and no others.
func requireOnly(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	found, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, found, len(files))
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, string(want) == string(got), "%s was changed", name)
	}
}
