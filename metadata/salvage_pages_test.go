package metadata

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// rowPages is which pages of a sound file a record depends on, by kind. It is found by a walk
// of the tests' own.
type rowPages struct {
	above []uint64 // that lead to its leaf
	own   []uint64 // its leaf and its bucket
}

func (r rowPages) hit(hit func(uint64) bool, above bool) bool {
	return slices.ContainsFunc(r.own, hit) || above && slices.ContainsFunc(r.above, hit)
}

// deepDB is a database of small pages with a tree of records of several levels, and what it holds.
type deepDB struct {
	content  []byte
	pageSize int
	rows     map[string]map[string]string // values by key
	external map[string]string
	pages    map[string]rowPages
	extPages map[string]rowPages
	storeID  string
	depth    int // of the tree of records
}

// newDeepDB makes a database whose records were changed, removed and made again, so that it
// has stale pages of each kind. Without a free list it is what a killed process leaves.
func newDeepDB(t testing.TB, freelist bool) *deepDB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deep.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	require.NoError(t, err)
	s := NewStoreWithDB(db)
	d := &deepDB{pageSize: 1024, rows: map[string]map[string]string{}, external: map[string]string{}}
	d.storeID, err = s.StoreID()
	require.NoError(t, err)
	rnd := rand.New(rand.NewPCG(3, 5))
	for version := range 6 {
		for batch := range 4 {
			require.NoError(t, s.Write(func(w *Writer) error {
				for i := range 30 {
					if err := d.change(w, rnd, fmt.Sprintf("record-%d-%03d", batch, i), version); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("somebody else's"))
		if err != nil {
			return err
		}
		return b.Put([]byte("k"), []byte("v"))
	}))
	if freelist {
		db.NoFreelistSync = false
		require.NoError(t, db.Update(func(*bolt.Tx) error { return nil }))
	}
	d.content, err = os.ReadFile(path)
	require.NoError(t, err)
	db.NoFreelistSync = true
	require.NoError(t, s.Close())
	d.findPages(t)
	require.Equal(t, d.rows, readRows(t, d.write(t)))
	return d
}

// change makes, changes or removes a record.
func (d *deepDB) change(w *Writer, rnd *rand.Rand, id string, version int) error {
	if d.rows[id] != nil && rnd.IntN(4) == 0 {
		delete(d.rows, id)
		delete(d.external, id)
		return w.Remove(id)
	}
	row := d.rows[id]
	var r *RowWriter
	var err error
	if row == nil {
		row = map[string]string{}
		r, err = w.Create(id)
	} else if rnd.IntN(2) == 0 {
		return nil
	} else {
		r, err = w.Row(id)
	}
	if err != nil {
		return err
	}
	d.rows[id] = row
	for k := range 1 + rnd.IntN(1+rnd.IntN(24)) {
		key, value := fmt.Sprintf("key%02d", k), fmt.Sprintf("version %d %s", version, strings.Repeat("x", rnd.IntN(40)))
		if err := r.Set(key, value, fmt.Sprintf("i%d::%d", k%4, version)); err != nil {
			return err
		}
		row[key] = `"` + value + `"`
	}
	if rnd.IntN(3) > 0 {
		return nil
	}
	d.external[id] = fmt.Sprintf("%s of version %d %s", id, version, strings.Repeat("e", rnd.IntN(2000)))
	return r.SetExternal("item", []byte(d.external[id]))
}

// findPages walks the file with bbolt's knowledge of the format and notes which pages lead where.
func (d *deepDB) findPages(t testing.TB) {
	t.Helper()
	d.pages, d.extPages = map[string]rowPages{}, map[string]rowPages{}
	meta, err := readMeta(bytes.NewReader(d.content), int64(len(d.content)))
	require.NoError(t, err)
	var walk func(id uint64, above []uint64, leaf func(key, value []byte, pages rowPages))
	extents := func(id uint64) (ids []uint64) {
		at := int(id) * d.pageSize
		for i := range uint64(order.Uint32(d.content[at+12:])) + 1 {
			ids = append(ids, id+i)
		}
		return ids
	}
	walk = func(id uint64, above []uint64, leaf func(key, value []byte, pages rowPages)) {
		p := d.content[int(id)*d.pageSize:]
		for i := range int(order.Uint16(p[10:])) {
			e := p[16+16*i:]
			if order.Uint16(p[8:]) == branchPage {
				walk(order.Uint64(e[8:]), append(slices.Clone(above), extents(id)...), leaf)
				continue
			}
			pos, keyLen := order.Uint32(e[4:]), order.Uint32(e[8:])
			leaf(e[pos:pos+keyLen], e[pos+keyLen:pos+keyLen+order.Uint32(e[12:])], rowPages{above, extents(id)})
		}
	}
	list := func(root uint64, above []uint64, out map[string]rowPages) {
		walk(root, above, func(key, value []byte, pages rowPages) {
			d.depth = max(d.depth, len(pages.above))
			if root := order.Uint64(value); root != 0 {
				walk(root, nil, func(_, _ []byte, below rowPages) {
					pages.own = append(append(slices.Clone(pages.own), below.above...), below.own...)
				})
			}
			out[string(key)] = pages
		})
	}
	walk(meta.root, nil, func(key, value []byte, top rowPages) {
		switch string(key) {
		case "_main":
			list(order.Uint64(value), top.own, d.pages)
		case "_external":
			list(order.Uint64(value), top.own, d.extPages)
		}
	})
	require.Len(t, d.pages, len(d.rows))
	require.Len(t, d.extPages, len(d.external))
}

// withinExternal tells whether a page has nothing but bytes of an external item.
func (d *deepDB) withinExternal(id uint64) bool {
	for _, pages := range d.extPages {
		if slices.Contains(pages.own, id) {
			return order.Uint64(d.content[int(id)*d.pageSize:]) != id
		}
	}
	return false
}

// write puts the database, changed, into a new directory.
func (d *deepDB) write(t testing.TB, change ...func(b []byte) []byte) string {
	t.Helper()
	path := filepath.Join(memoryDir(t), "db")
	b := bytes.Clone(d.content)
	for _, fn := range change {
		b = fn(b)
	}
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// readRows opens a database and returns its records.
func readRows(t testing.TB, path string) map[string]map[string]string {
	t.Helper()
	s, err := NewStore(path)
	require.NoError(t, err)
	defer s.Close()
	return rowsOf(t, s)
}

func rowsOf(t testing.TB, s *Store) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	require.NoError(t, s.Scan(func(id []byte, row RowView) error {
		values := map[string]string{}
		out[string(id)] = values
		return row.Each(func(key []byte, v RawValue) error {
			values[string(key)] = string(v.Raw())
			return nil
		})
	}))
	return out
}

// check opens a damaged copy and compares what is left with what does not depend on the pages that were
// hit. above tells whether records survive damage of the pages above their leaf.
func (d *deepDB) check(t testing.TB, path, what string, hit func(uint64) bool, above bool) *SalvageReport {
	t.Helper()
	s, err := NewStore(path)
	require.NoError(t, err, what)
	defer func() { require.NoError(t, s.Close()) }()
	want, wantExternal := map[string]map[string]string{}, map[string]string{}
	for id, row := range d.rows {
		if d.pages[id].hit(hit, above) {
			continue
		}
		want[id] = row
		if value, ok := d.external[id]; ok && !d.extPages[id].hit(hit, true) {
			wantExternal[id] = value
		}
	}
	got := rowsOf(t, s)
	require.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)), what)
	require.Equal(t, want, got, what)
	gotExternal := map[string]string{}
	for id := range got {
		it, _ := s.Get(id)
		if dt, err := it.GetExternal("item"); err == nil {
			gotExternal[id] = string(dt)
		}
	}
	require.Equal(t, wantExternal, gotExternal, what)
	requireIndexed(t, s)
	report := s.Salvaged()
	if len(want) < len(d.rows) || len(wantExternal) < len(d.external) {
		require.NotNil(t, report, what)
	}
	if report != nil {
		require.Equal(t, len(want), report.Records)
		if len(want) < len(d.rows) {
			require.True(t, len(report.Lost) > 0 || report.Gaps > 0, what)
		}
		if len(wantExternal) < len(d.external) && len(want) == len(d.rows) {
			require.True(t, len(report.LostExternals) > 0 || report.ExternalGaps > 0, what)
		}
		if report.Gaps+report.ExternalGaps > 0 {
			require.NotEmpty(t, report.LostPages, what)
		}
		for _, id := range report.Lost {
			require.Contains(t, d.rows, id, what) // no record that was removed before
			require.NotContains(t, want, id, what)
		}
		for _, id := range report.LostExternals {
			require.Contains(t, want, id, what)
			require.NotContains(t, wantExternal, id, what)
		}
		if id, err := s.StoreID(); !report.NewStoreID {
			require.NoError(t, err)
			require.Equal(t, d.storeID, id)
		}
	}
	return report
}

// step returns how far to go from a page to the next one to try: by one among the first, where
// the roots are.
func step(id, long, short uint64) uint64 {
	switch {
	case id < 6:
		return 1
	case testing.Short():
		return short
	}
	return long
}

// TestSalvageEveryPage zeroes one page of a database after the other. Every record that does not
// depend on it is there as it was last written, every other one is gone, whatever older
// states of it there are in the file.
// fault 30
func TestSalvageEveryPage(t *testing.T) {
	for _, freelist := range []bool{false, true} {
		d := newDeepDB(t, freelist)
		require.GreaterOrEqual(t, d.depth, 2) // a page above the one above the leaves
		salvaged, partly := 0, 0
		for id := uint64(0); id < uint64(len(d.content)/d.pageSize); id += step(id, 2, 7) {
			if d.withinExternal(id) {
				continue // bytes of an item mean nothing to this package
			}
			path := d.write(t, func(b []byte) []byte { clear(b[id*1024 : (id+1)*1024]); return b })
			// Pages above are no loss where the free list tells what has been given up.
			report := d.check(t, path, fmt.Sprintf("page %d, free list %v", id, freelist), func(hit uint64) bool { return hit == id }, !freelist)
			if report != nil {
				require.False(t, report.NewStoreID)
				salvaged++
				if report.Records > 0 && report.Records < len(d.rows) {
					partly++
				}
			}
			require.NoError(t, os.RemoveAll(filepath.Dir(path)))
		}
		require.Greater(t, salvaged, 10)
		require.Greater(t, partly, 5)
	}
}

// TestSalvageCutOff cuts a database off after each page, and within it.
// fault 30
func TestSalvageCutOff(t *testing.T) {
	d := newDeepDB(t, false)
	for id := uint64(1); id < uint64(len(d.content)/d.pageSize); id += step(id, 3, 9) {
		for _, more := range []uint64{0, 500} {
			path := d.write(t, func(b []byte) []byte { return b[:id*1024+more] })
			// Without a page after the roots there is no tree, and with one root it may be an older state.
			if meta, err := readMeta(bytes.NewReader(d.content[:id*1024+more]), int64(id*1024+more)); err == nil {
				full, err := readMeta(bytes.NewReader(d.content), int64(len(d.content)))
				require.NoError(t, err)
				require.Equal(t, full, meta)
				d.check(t, path, fmt.Sprint("cut off after ", id), func(hit uint64) bool { return hit >= id }, true)
			} else {
				require.Empty(t, readRows(t, path))
			}
			require.NoError(t, os.RemoveAll(filepath.Dir(path)))
		}
	}
}

// TestSalvageFlippedBits flips bits anywhere. What lies in pages that were not hit, nor are
// in doubt since a damaged one points to them, is as it was; nothing comes back that was removed.
// fault 30
func TestSalvageFlippedBits(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for _, freelist := range []bool{false, true} {
		d := newDeepDB(t, freelist)
		rnd := rand.New(rand.NewPCG(11, 13))
		for range rounds {
			hit := map[uint64]bool{}
			path := d.write(t, func(b []byte) []byte {
				for range 1 + rnd.IntN(3) {
					id := uint64(2 + rnd.IntN(len(b)/1024-2))
					b[int(id)*1024+rnd.IntN(1<<(1+rnd.IntN(10)))] ^= 1 << rnd.IntN(8)
					hit[id] = true
				}
				return b
			})
			s, err := NewStore(path)
			require.NoError(t, err)
			if report := s.Salvaged(); report != nil {
				for _, id := range report.LostPages {
					hit[id] = true
				}
			}
			got := rowsOf(t, s)
			for id, row := range d.rows {
				if !d.pages[id].hit(func(page uint64) bool { return hit[page] }, true) {
					require.Equal(t, row, got[id], "%s: %v", id, slices.Sorted(maps.Keys(hit)))
				}
			}
			require.NoError(t, s.Close())
			require.NoError(t, os.RemoveAll(filepath.Dir(path)))
		}
	}
}

// TestSalvageGolden zeroes each page of BuildKit's databases in turn and finds in what is left
// only what was in them, as it was.
// fault 30, fault 34
func TestSalvageGolden(t *testing.T) {
	for _, name := range []string{"store", "manager"} {
		content, err := os.ReadFile(filepath.Join("testdata", name+".db"))
		require.NoError(t, err)
		whole, path, _ := openGolden(t, name)
		want := dump(t, whole.DB())
		require.NoError(t, whole.Close())
		left := 0
		for at := 0; at < len(content); at += 4096 {
			damaged := bytes.Clone(content)
			clear(damaged[at : at+4096])
			require.NoError(t, os.WriteFile(path, damaged, 0o600))
			s, err := NewStore(path)
			require.NoError(t, err)
			got := dump(t, s.DB())
			for key, value := range got {
				switch {
				case strings.HasPrefix(key, "_index\x00"):
					// BuildKit lost one that a value names; see requireIndexed.
				case strings.HasPrefix(key, "_external\x00") && s.Salvaged() == nil:
					// Bytes of an item mean nothing to this package.
				default:
					require.True(t, value == want[key], "%q", key)
				}
			}
			items, err := s.Search(context.Background(), "", true)
			require.NoError(t, err)
			for _, it := range items {
				require.NotEmpty(t, it.Keys())
			}
			left += len(allIDs(t, s))
			require.NoError(t, s.Close())
			checkSalvage(t, path)
		}
		require.Positive(t, left)
	}
}
