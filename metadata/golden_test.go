package metadata

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// goldenContent is what compat/cmd/golden says of a database that BuildKit wrote.
type goldenContent struct {
	Rows     map[string]map[string]string // stored bytes, empty for a cleared value
	Index    []string
	External map[string]map[string][]byte
	Search   map[string][]string // by prefix
}

// openGolden copies a golden database and opens it.
func openGolden(t *testing.T, name string) (s *Store, path string, want goldenContent) {
	t.Helper()
	dt, err := os.ReadFile(filepath.Join("testdata", name+".db"))
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "metadata_v2.db")
	require.NoError(t, os.WriteFile(path, dt, 0o600))
	dt, err = os.ReadFile(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(dt, &want))
	require.NotEmpty(t, want.Rows)
	s, err = NewStore(path)
	require.NoError(t, err)
	return s, path, want
}

// TestGolden reads everything in databases of BuildKit's, and leaves them as they were.
// spec META-3, META-4, META-5, META-8, META-9, META-14, META-15, fault 34
func TestGolden(t *testing.T) {
	for _, name := range []string{"store", "manager"} {
		s, path, want := openGolden(t, name)
		require.Equal(t, want.Index, entries(t, s))
		require.Equal(t, slices.Sorted(maps.Keys(want.Rows)), allIDs(t, s))
		got := map[string]map[string]string{}
		require.NoError(t, s.Scan(func(id []byte, row RowView) error {
			values := map[string]string{}
			got[string(id)] = values
			return row.Each(func(key []byte, v RawValue) error {
				dt, err := json.Marshal(v.value())
				values[string(key)] = string(dt)
				return err
			})
		}))
		for id, row := range want.Rows {
			maps.DeleteFunc(row, func(_, v string) bool { return v == "" })
			require.Equal(t, row, got[id])
			it, ok := s.Get(id)
			require.True(t, ok)
			require.Equal(t, slices.Sorted(maps.Keys(row)), it.Keys())
			for key, stored := range row {
				dt, err := json.Marshal(it.Get(key))
				require.NoError(t, err)
				require.Equal(t, stored, string(dt))
				if index := it.Get(key).Index; index != "" {
					require.Contains(t, it.Indexes(), index)
				}
			}
		}
		for id, blobs := range want.External {
			it, _ := s.Get(id)
			for key, stored := range blobs {
				dt, err := it.GetExternal(key)
				require.NoError(t, err)
				require.Equal(t, stored, dt)
			}
		}
		for prefix, found := range want.Search {
			items, err := s.Search(context.Background(), prefix, true)
			require.NoError(t, err)
			require.Equal(t, found, ids(items), "%s: %q", name, prefix)
		}
		for _, entry := range want.Index {
			at := strings.LastIndex(entry, "::")
			require.Contains(t, found(t, s, entry[:at]), entry[at+2:])
			ok, err := s.Probe(entry[:at])
			require.NoError(t, err)
			require.True(t, ok)
		}
		require.NoError(t, s.Close())
		before, err := os.ReadFile(filepath.Join("testdata", name+".db"))
		require.NoError(t, err)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
}

// TestGoldenRemoval removes every record of BuildKit's manager, which leaves nothing of them.
// spec META-7, scenario S-34
func TestGoldenRemoval(t *testing.T) {
	s, _, want := openGolden(t, "manager")
	foreign := func(*bolt.Bucket) error { return nil }
	for id := range want.Rows {
		require.NoError(t, s.Update(id, foreign))
		require.NoError(t, s.Clear(id))
		require.True(t, errdefs.IsNotFound(s.Update(id, foreign)))
	}
	require.Equal(t, map[string]string{"_main": "bucket", "_index": "bucket", "_external": "bucket"}, dump(t, s.DB()))
	require.NoError(t, s.Close())
}
