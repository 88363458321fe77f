package compat

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	theirs "github.com/moby/buildkit/cache/metadata"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compat/golden"
	ours "github.com/layercache/cache/metadata"
)

// openGolden copies a golden database and returns its description.
func openGolden(t *testing.T, name string) (path string, want *golden.Content) {
	t.Helper()
	dt, err := os.ReadFile(filepath.Join("testdata", name+".db"))
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "metadata_v2.db")
	require.NoError(t, os.WriteFile(path, dt, 0o600))
	want, err = golden.Load(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	require.NotEmpty(t, want.Rows)
	return path, want
}

// read returns the content of a database.
func read(t *testing.T, db golden.Viewer) *golden.Content {
	t.Helper()
	c, err := golden.Read(db)
	require.NoError(t, err)
	return c
}

// TestOursReadsTheirs compares every key, index and external item of BuildKit's databases with
// what the library's own API says of them.
// spec META-2, META-3, META-4, META-5, META-8, META-14, fault 34
func TestOursReadsTheirs(t *testing.T) {
	for _, name := range []string{"store", "manager"} {
		path, want := openGolden(t, name)
		s, err := ours.NewStore(path)
		require.NoError(t, err)
		items, err := s.All()
		require.NoError(t, err)
		require.Len(t, items, len(want.Rows))
		for _, it := range items {
			row := map[string]string{}
			for _, key := range it.Keys() {
				dt, err := json.Marshal(it.Get(key))
				require.NoError(t, err)
				row[key] = string(dt)
			}
			stored := want.Rows[it.ID()]
			for key, value := range stored {
				if value == "" {
					delete(stored, key) // cleared
				}
			}
			require.Equal(t, stored, row)
			for key, value := range want.External[it.ID()] {
				dt, err := it.GetExternal(key)
				require.NoError(t, err)
				require.Equal(t, value, dt)
			}
		}
		for prefix, ids := range want.Search {
			items, err := s.Search(context.Background(), prefix, true)
			require.NoError(t, err)
			got := []string{}
			for _, it := range items {
				got = append(got, it.ID())
			}
			require.Equal(t, ids, got, "%s: %q", name, prefix)
		}
		require.NoError(t, s.Close())
	}
}

// TestTheirsReadsOurs runs the script through both of the library's writers and has BuildKit
// read the result: each bucket is the same to the byte as in BuildKit's own database.
// spec META-2, META-3, META-4, META-5, META-6, META-7, fault 34
func TestTheirsReadsOurs(t *testing.T) {
	_, want := openGolden(t, "store")
	for name, target := range map[string]func(*ours.Store) Target{
		"items":  func(s *ours.Store) Target { return OurItems{s} },
		"writer": func(s *ours.Store) Target { return OurWriter{s} },
	} {
		path := filepath.Join(t.TempDir(), "metadata_v2.db")
		s, err := ours.NewStore(path)
		require.NoError(t, err)
		require.NoError(t, Run(target(s), Script()), name)
		_, err = s.StoreID()
		require.NoError(t, err)
		require.NoError(t, s.Close())

		bk, err := theirs.NewStore(path)
		require.NoError(t, err)
		got := read(t, bk.DB())
		got.Search = map[string][]string{}
		for _, prefix := range Prefixes() {
			items, err := bk.Search(context.Background(), prefix, true)
			require.NoError(t, err)
			got.Search[prefix] = []string{}
			for _, it := range items {
				got.Search[prefix] = append(got.Search[prefix], it.ID())
			}
		}
		require.Equal(t, want, got, name)
		items, err := bk.All()
		require.NoError(t, err)
		require.Len(t, items, len(want.Rows))
		for _, it := range items {
			for key, value := range want.External[it.ID()] {
				dt, err := it.GetExternal(key)
				require.NoError(t, err)
				require.Equal(t, value, dt)
			}
		}
		require.NoError(t, bk.Close())
	}
}

// TestScriptInStep runs the script step by step through both programs and compares after each,
// so that no intermediate state differs either.
// spec META-6, META-7, scenario S-34
func TestScriptInStep(t *testing.T) {
	a, err := ours.NewStore(filepath.Join(t.TempDir(), "metadata_v2.db"))
	require.NoError(t, err)
	b, err := theirs.NewStore(filepath.Join(t.TempDir(), "metadata_v2.db"))
	require.NoError(t, err)
	for i, step := range Script() {
		require.NoError(t, Run(OurItems{a}, []Step{step}))
		require.NoError(t, Run(Theirs{b}, []Step{step}))
		require.Equal(t, read(t, b.DB()), read(t, a.DB()), "step %d: %+v", i, step)
	}
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}

// TestBackAndForth changes BuildKit's database with the library, with BuildKit and with the
// library again: what nobody touched is as it was.
// spec META-2, fault 34
func TestBackAndForth(t *testing.T) {
	for _, name := range []string{"store", "manager"} {
		path, want := openGolden(t, name)
		want.Search = nil
		s, err := ours.NewStore(path)
		require.NoError(t, err)
		id, err := s.StoreID()
		require.NoError(t, err)
		require.NoError(t, Run(OurWriter{s}, []Step{{ID: "zours", Key: "k", Value: 1, Index: "zi"}}))
		require.NoError(t, s.Later("zours", map[string]any{"cache.usageCount": 3}))
		require.NoError(t, s.Close())

		bk, err := theirs.NewStore(path)
		require.NoError(t, err)
		require.NoError(t, Run(Theirs{bk}, []Step{{ID: "ztheirs", Key: "k", Value: 2, Index: "zi"}}))
		it, ok := bk.Get("zours")
		require.True(t, ok)
		require.Equal(t, "3", string(it.Get("cache.usageCount").Value))
		require.NoError(t, bk.Close())

		s, err = ours.NewStore(path)
		require.NoError(t, err)
		again, err := s.StoreID()
		require.NoError(t, err)
		require.Equal(t, id, again)
		items, err := s.Search(context.Background(), "zi", false)
		require.NoError(t, err)
		require.Len(t, items, 2)
		for _, it := range items {
			require.NoError(t, s.Clear(it.ID()))
		}
		require.Equal(t, want, read(t, s.DB()))
		require.NoError(t, s.Close())
	}
}
