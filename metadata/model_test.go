package metadata

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// model is a store as plain maps.
type model struct {
	rows     map[string]map[string]Value
	external map[string]map[string]string
}

// search lists the IDs that an index finds, in the order of the index keys.
func (m *model) search(index string, prefix bool) []string {
	keys := map[string]string{}
	for id, row := range m.rows {
		for _, v := range row {
			key := v.Index + "::" + id
			if v.Index != "" && (v.Index == index || prefix && strings.HasPrefix(key, index)) {
				keys[key] = id
			}
		}
	}
	out := []string{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		out = append(out, keys[key])
	}
	return out
}

// TestModel compares the store with the model over random histories with restarts.
// spec META-3, META-5, META-6, META-7, META-8, META-9, META-15, scenario S-34
func TestModel(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
		require.NoError(rt, err)
		s := NewStoreWithDB(db)
		m := &model{rows: map[string]map[string]Value{}, external: map[string]map[string]string{}}
		id := rapid.SampledFrom([]string{"a", "b", "c:", "ab"})
		key := rapid.SampledFrom([]string{"k", "l", "m::n"})
		index := rapid.SampledFrom([]string{"", "", "i", "i::a", "i:", "j"})
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				id, key := id.Draw(rt, "id"), key.Draw(rt, "key")
				v, err := NewValue(rapid.IntRange(0, 9).Draw(rt, "value"))
				require.NoError(rt, err)
				v.Index = index.Draw(rt, "index")
				it, _ := s.Get(id)
				if rapid.Bool().Draw(rt, "queued") {
					it.Queue(func(b *bolt.Bucket) error { return it.SetValue(b, key, v) })
					require.NoError(rt, it.Commit())
				} else {
					require.NoError(rt, it.GetAndSetValue(key, func(*Value) (*Value, error) { return v, nil }))
				}
				if m.rows[id] == nil {
					m.rows[id] = map[string]Value{}
				}
				m.rows[id][key] = *v
			},
			"clear": func(rt *rapid.T) {
				id, key := id.Draw(rt, "id"), key.Draw(rt, "key")
				err := s.Write(func(w *Writer) error {
					r, err := w.Row(id)
					if err != nil {
						return err
					}
					return r.Clear(key)
				})
				require.Equal(rt, m.rows[id] == nil, err != nil)
				delete(m.rows[id], key)
			},
			"later": func(rt *rapid.T) {
				id, key := id.Draw(rt, "id"), key.Draw(rt, "key")
				require.NoError(rt, s.Later(id, map[string]any{key: true}))
				if rapid.Bool().Draw(rt, "flush") || m.rows[id] == nil {
					require.NoError(rt, s.Flush())
				}
				if m.rows[id] != nil {
					m.rows[id][key] = Value{Value: []byte("true")}
				}
			},
			"external": func(rt *rapid.T) {
				id := id.Draw(rt, "id")
				it, ok := s.Get(id)
				require.Equal(rt, m.rows[id] != nil, ok)
				require.NoError(rt, it.SetExternal("e", []byte(id)))
				if m.rows[id] == nil {
					m.rows[id] = map[string]Value{}
				}
				m.external[id] = map[string]string{"e": id}
			},
			"remove": func(rt *rapid.T) {
				id := id.Draw(rt, "id")
				require.NoError(rt, s.Clear(id))
				delete(m.rows, id)
				delete(m.external, id)
			},
			"reopen": func(rt *rapid.T) {
				require.NoError(rt, s.Close())
				db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
				require.NoError(rt, err)
				s = NewStoreWithDB(db)
			},
			"": func(rt *rapid.T) { m.compare(rt, s) },
		})
		require.NoError(rt, s.Flush())
		m.compareScan(rt, s)
		require.NoError(rt, s.Close())
	})
}

// compare checks what is seen through items and searches.
func (m *model) compare(t *rapid.T, s *Store) {
	items, err := s.All()
	require.NoError(t, err)
	got := map[string]map[string]Value{}
	for _, it := range items {
		got[it.ID()] = map[string]Value{}
		for _, key := range it.Keys() {
			got[it.ID()][key] = *it.Get(key)
		}
		dt, err := it.GetExternal("e")
		require.Equal(t, m.external[it.ID()] == nil, err != nil)
		require.Equal(t, m.external[it.ID()]["e"], string(dt))
	}
	require.Equal(t, m.rows, got)
	require.NoError(t, s.Flush())
	for _, index := range []string{"", "i", "i:", "i::", "i::a", "j", "x"} {
		for _, prefix := range []bool{false, true} {
			items, err := s.Search(context.Background(), index, prefix)
			require.NoError(t, err)
			want := m.search(index, prefix)
			if index == "" && !prefix {
				want = []string{}
			}
			require.Equal(t, want, ids(items), "%q prefix=%v", index, prefix)
		}
		found, err := s.Probe(index)
		require.NoError(t, err)
		require.Equal(t, index != "" && len(m.search(index, false)) > 0, found)
	}
}

// compareScan checks what is seen in a scan, and that nothing is left over.
func (m *model) compareScan(t *rapid.T, s *Store) {
	got := map[string]map[string]Value{}
	require.NoError(t, s.Scan(func(id []byte, row RowView) error {
		values := map[string]Value{}
		got[string(id)] = values
		return row.Each(func(key []byte, v RawValue) error {
			values[string(key)] = *v.value()
			return nil
		})
	}))
	require.Equal(t, m.rows, got)
}
