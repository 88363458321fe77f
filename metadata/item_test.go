package metadata

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// found returns the records that an exact search finds.
func found(t testing.TB, s *Store, index string) []string {
	t.Helper()
	items, err := s.Search(context.Background(), index, false)
	require.NoError(t, err)
	return ids(items)
}

// entries returns the keys of the index bucket.
func entries(t testing.TB, s *Store) []string {
	t.Helper()
	out := []string{}
	require.NoError(t, s.DB().View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(indexBucket); b != nil {
			return b.ForEach(func(k, _ []byte) error {
				out = append(out, string(k))
				return nil
			})
		}
		return nil
	}))
	return out
}

// TestIndexMaintenance walks through what a value's index may go through.
// scenario S-34, spec META-6, META-7
func TestIndexMaintenance(t *testing.T) {
	s, _ := newStore(t)
	it, _ := s.Get("a")
	setTo := func(key string, v *Value) error {
		return it.Update(func(b *bolt.Bucket) error { return it.SetValue(b, key, v) })
	}
	require.NoError(t, setTo("k", &Value{Value: []byte("1"), Index: "old"}))
	require.NoError(t, setTo("k", &Value{Value: []byte("1"), Index: "new"}))
	require.Empty(t, found(t, s, "old"))
	require.Equal(t, []string{"a"}, found(t, s, "new"))

	// Two values of one record share an index until both are gone.
	require.NoError(t, setTo("l", &Value{Index: "new"}))
	require.Equal(t, []string{"new"}, []string{it.Get("l").Index})
	require.NoError(t, setTo("k", nil))
	require.Equal(t, []string{"a"}, found(t, s, "new"))
	require.NoError(t, setTo("l", &Value{Value: []byte("2")}))
	require.Empty(t, found(t, s, "new"))
	require.Empty(t, entries(t, s))

	// A transaction that fails changes nothing.
	require.NoError(t, setTo("k", &Value{Index: "kept"}))
	before := dump(t, s.DB())
	boom := errors.New("boom")
	require.ErrorIs(t, it.Update(func(b *bolt.Bucket) error {
		if err := it.SetValue(b, "k", &Value{Index: "other"}); err != nil {
			return err
		}
		return boom
	}), boom)
	require.Equal(t, before, dump(t, s.DB()))
	require.Equal(t, "kept", it.Get("k").Index)

	// An item that was got before, and an envelope that its reader changed, know no better.
	stale, _ := s.Get("a")
	it.Get("k").Index = "mutated"
	require.NoError(t, setTo("k", &Value{Index: "newer"}))
	require.NoError(t, stale.Update(func(b *bolt.Bucket) error {
		return stale.SetValue(b, "k", &Value{Index: "newest"})
	}))
	require.Equal(t, []string{"newest::a"}, entries(t, s))

	// A value that is no envelope is replaced, and does not keep the record from going.
	require.NoError(t, it.Update(func(b *bolt.Bucket) error { return b.Put([]byte("k"), []byte("junk")) }))
	require.Nil(t, it.Get("k"))
	require.NoError(t, setTo("k", &Value{Index: "newest"}))
	require.NoError(t, it.Update(func(b *bolt.Bucket) error { return b.Put([]byte("z"), []byte("junk")) }))
	require.ErrorIs(t, s.Scan(func(_ []byte, r RowView) error {
		return r.Each(func([]byte, RawValue) error { return nil })
	}), ErrCorrupt)
	require.NoError(t, it.SetExternal("e", []byte("x")))
	require.NoError(t, s.Clear("a"))
	require.Equal(t, map[string]string{"_main": "bucket", "_index": "bucket", "_external": "bucket"}, dump(t, s.DB()))
}

// TestClearIndex removes an entry that no value names, as ClearValueAndIndex does.
// spec MV-3
func TestClearIndex(t *testing.T) {
	s, _ := newStore(t)
	set(t, s, "a", "k", "v", "pre:v")
	it, _ := s.Get("a")
	require.NoError(t, it.Update(func(b *bolt.Bucket) error { return b.Put([]byte("k"), []byte(`{"value":"v"}`)) }))
	require.Equal(t, []string{"a"}, found(t, s, "pre:v"))
	require.NoError(t, it.Update(func(b *bolt.Bucket) error { return it.ClearIndex(b.Tx(), "pre:v") }))
	require.Empty(t, found(t, s, "pre:v"))
	require.NoError(t, s.Write(func(w *Writer) error {
		r, err := w.Row("a")
		if err != nil {
			return err
		}
		if err := r.Set("k", "w", "pre:w"); err != nil {
			return err
		}
		return r.ClearIndex("pre:w")
	}))
	require.Empty(t, entries(t, s))
	require.True(t, errdefs.IsInvalidArgument(it.ClearIndex(nil, "x")))
}

// TestQueue commits in order and at once, and keeps the queue when that fails.
// spec META-10, META-15, quirk Q05, Q08
func TestQueue(t *testing.T) {
	s, db := newStore(t)
	it, _ := s.Get("a")
	put := func(key, value string) func(b *bolt.Bucket) error {
		return func(b *bolt.Bucket) error {
			v, err := NewValue(value)
			if err != nil {
				return err
			}
			return it.SetValue(b, key, v)
		}
	}
	it.Queue(put("k", "first"))
	it.Queue(put("k", "second"))
	it.Queue(put("l", "third"))
	require.Nil(t, it.Get("k"))
	disk := errors.New("disk full")
	db.failWith(disk)
	require.ErrorIs(t, it.Commit(), disk)
	require.Nil(t, it.Get("k"))
	require.Empty(t, it.Keys())
	require.Zero(t, db.committed())
	db.failWith(nil)
	require.NoError(t, it.Commit())
	require.Equal(t, 1, db.committed())
	require.JSONEq(t, `"second"`, string(it.Get("k").Value))
	require.Equal(t, []string{"k", "l"}, it.Keys())
	require.NoError(t, it.Commit())
	require.Equal(t, 1, db.committed())
}

// TestGetAndSetValue is atomic, can be skipped and can clear.
// spec META-12, META-15
func TestGetAndSetValue(t *testing.T) {
	s, db := newStore(t)
	it, _ := s.Get("a")
	require.NoError(t, it.GetAndSetValue("k", func(v *Value) (*Value, error) {
		require.Nil(t, v)
		return nil, errors.Wrap(ErrSkipSetValue, "nothing new")
	}))
	_, ok := s.Get("a")
	require.False(t, ok)
	require.Zero(t, db.committed())
	const n = 20
	errs := make(chan error, n)
	for range n {
		go func() {
			errs <- it.GetAndSetValue("k", func(v *Value) (*Value, error) {
				i := 0
				if v != nil {
					if err := v.Unmarshal(&i); err != nil {
						return nil, err
					}
				}
				return NewValue(i + 1)
			})
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	require.JSONEq(t, fmt.Sprint(n), string(it.Get("k").Value))
	boom := errors.New("boom")
	require.ErrorIs(t, it.GetAndSetValue("k", func(*Value) (*Value, error) { return nil, boom }), boom)
	require.NotNil(t, it.Get("k"))
	require.NoError(t, it.GetAndSetValue("k", func(*Value) (*Value, error) { return nil, nil }))
	require.Nil(t, it.Get("k"))
}

// TestAppendSet keeps order and writes only what is new.
// spec META-12, META-13, quirk Q04
func TestAppendSet(t *testing.T) {
	s, db := newStore(t)
	set(t, s, "a", "urls", []string{"z", "y"}, "i")
	appendSet := func(values ...string) []string {
		require.NoError(t, s.Write(func(w *Writer) error {
			r, err := w.Row("a")
			if err != nil {
				return err
			}
			return r.AppendSet("urls", values...)
		}))
		it, _ := s.Get("a")
		var got []string
		require.NoError(t, it.Get("urls").Unmarshal(&got))
		require.Equal(t, "i", it.Get("urls").Index)
		return got
	}
	want := []string{"z", "y"}
	for i := range 20 {
		want = append(want, fmt.Sprint(20-i))
	}
	require.Equal(t, want, appendSet(append([]string{"y"}, want...)...))
	n := db.committed()
	require.Equal(t, want, appendSet("20", "z"))
	require.Equal(t, want, appendSet())
	require.Equal(t, n, db.committed())
	set(t, s, "a", "urls", 7, "i")
	require.Equal(t, []string{"x"}, appendSet("x", "x"))
}

// TestRemovedRecord refuses what would bring a part of a removed record back.
// spec META-11, META-15, quirk Q09
func TestRemovedRecord(t *testing.T) {
	s, db := newStore(t)
	set(t, s, "a", "k", 1, "i")
	it, ok := s.Get("a")
	require.True(t, ok)
	all, err := s.All()
	require.NoError(t, err)
	hit, err := s.Search(context.Background(), "i", false)
	require.NoError(t, err)
	require.NoError(t, it.SetExternal("e", []byte("x")))
	it.Queue(func(b *bolt.Bucket) error { return b.Put([]byte("q"), nil) })
	require.NoError(t, s.Clear("a"))
	refused := func() {
		t.Helper()
		n := db.committed()
		before := dump(t, s.DB())
		for _, it := range []*StorageItem{it, all[0], hit[0]} {
			for _, err := range []error{
				it.Update(func(*bolt.Bucket) error { return nil }),
				it.SetExternal("e", nil),
				it.GetAndSetValue("k", func(*Value) (*Value, error) { return NewValue(2) }),
			} {
				require.ErrorIs(t, err, ErrRecordRemoved)
				require.True(t, errdefs.IsNotFound(err))
			}
			require.Nil(t, it.Get("k"))
			require.Empty(t, it.Keys())
			require.Empty(t, it.Indexes())
			_, err := it.GetExternal("e")
			require.True(t, errdefs.IsNotFound(err))
		}
		require.ErrorIs(t, it.Commit(), ErrRecordRemoved)
		require.Equal(t, n, db.committed())
		require.Equal(t, before, dump(t, s.DB()))
	}
	refused()
	require.True(t, errdefs.IsNotFound(s.Update("a", func(*bolt.Bucket) error { return nil })))
	require.True(t, errdefs.IsNotFound(s.Write(func(w *Writer) error {
		_, err := w.Row("a")
		return err
	})))
	// A later record of the same ID is none of theirs.
	require.NoError(t, s.Write(func(w *Writer) error {
		_, err := w.Create("a")
		return err
	}))
	refused()
	fresh, ok := s.Get("a")
	require.True(t, ok)
	require.NoError(t, fresh.SetExternal("e", []byte("y")))
}

// TestSharedFate lets two items of an ID that never existed meet its removal.
// spec META-11
func TestSharedFate(t *testing.T) {
	s, db := newStore(t)
	one, _ := s.Get("a")
	two, _ := s.Get("a")
	nothing := func(*bolt.Bucket) error { return nil }
	require.NoError(t, one.Update(nothing))
	require.NoError(t, s.Clear("a"))
	require.ErrorIs(t, two.Update(nothing), ErrRecordRemoved)

	// A removal that is not committed ends nothing, nor does a creation begin anything.
	three, _ := s.Get("b")
	disk := errors.New("disk full")
	db.failWith(disk)
	require.ErrorIs(t, three.Update(nothing), disk)
	db.failWith(nil)
	require.NoError(t, three.Update(nothing))
	db.failWith(disk)
	require.ErrorIs(t, s.Clear("b"), disk)
	db.failWith(nil)
	require.NoError(t, three.SetExternal("e", nil))

	// Removed below the store, a record is gone all the same.
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error { return tx.Bucket(mainBucket).DeleteBucket([]byte("b")) }))
	require.ErrorIs(t, three.Update(nothing), ErrRecordRemoved)
}

// TestLivesDoNotPileUp removes many records and expects no memory of them once their items
// are gone.
// spec META-11
func TestLivesDoNotPileUp(t *testing.T) {
	s, _ := newStore(t)
	func() {
		var held []*StorageItem
		require.NoError(t, s.Write(func(w *Writer) error {
			for i := range 500 {
				if _, err := w.Create(fmt.Sprintf("id%03d", i)); err != nil && !errdefs.IsAlreadyExists(err) {
					return err
				}
			}
			return nil
		}))
		held, err := s.All()
		require.NoError(t, err)
		require.Equal(t, 500, s.lives.size())
		require.NoError(t, s.Write(func(w *Writer) error {
			for _, it := range held[:250] {
				if err := w.Remove(it.ID()); err != nil {
					return err
				}
			}
			return nil
		}))
		require.Equal(t, 250, s.lives.size())
		require.ErrorIs(t, held[0].SetExternal("e", nil), ErrRecordRemoved)
		runtime.KeepAlive(held)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return s.lives.size() == 0
	}, testTimeout, testPoll)
}

// TestSharedView shows a change at once in everything that was got before, with no copy that
// a reader could change.
// spec MV-1, MV-2, MV-4, META-10, META-13, META-14, quirk Q10
func TestSharedView(t *testing.T) {
	s, _ := newStore(t)
	set(t, s, "a", "k", "v", "i")
	one, _ := s.Get("a")
	hits, err := s.Search(context.Background(), "i", false)
	require.NoError(t, err)
	set(t, s, "a", "k", []int{1}, "i")
	for _, it := range []*StorageItem{one, hits[0], one.Metadata()} {
		v := it.Get("k")
		require.Equal(t, &Value{Value: json.RawMessage("[1]"), Index: "i"}, v)
		require.Equal(t, []string{"i"}, it.Indexes())
		require.Same(t, s, it.Storage())
		v.Value[1], v.Index = '2', "j"
		var text string
		require.Error(t, it.Get("k").Unmarshal(&text))
		require.Empty(t, text)
	}
	require.Equal(t, "[1]", string(one.Get("k").Value))
	require.NoError(t, hits[0].SetExternal("e", []byte("abc")))
	dt, err := one.GetExternal("e")
	require.NoError(t, err)
	dt[0] = 'x'
	dt, err = one.GetExternal("e")
	require.NoError(t, err)
	require.Equal(t, "abc", string(dt))
	require.NoError(t, s.Clear("a"))
	require.Empty(t, found(t, s, "i"))
}

// TestHostileNames stores nothing under a name that could not be told apart or removed again.
// fault 43
func TestHostileNames(t *testing.T) {
	s, db := newStore(t)
	set(t, s, "ok", "k", 1, "")
	before, n := dump(t, s.DB()), db.committed()
	long := strings.Repeat("x", bolt.MaxKeySize+1)
	for _, id := range []string{"", long, "a::b", ":a", "a\x00b", "::"} {
		it, ok := s.Get(id)
		require.False(t, ok)
		createErr := s.Write(func(w *Writer) error {
			_, err := w.Create(id)
			return err
		})
		for i, err := range []error{
			createErr,
			it.Update(func(*bolt.Bucket) error { return nil }),
			it.SetExternal("k", nil),
			it.GetAndSetValue("k", func(*Value) (*Value, error) { return NewValue(1) }),
			s.Later(id, map[string]any{"k": 1}),
		} {
			require.True(t, errdefs.IsInvalidArgument(err), "%d %.20q: %v", i, id, err)
		}
		require.NoError(t, s.Clear(id))
		require.True(t, errdefs.IsNotFound(s.View(id, nil)))
		require.Nil(t, it.Get("k"))
		found(t, s, id)
	}
	it, _ := s.Get("ok")
	put := func(key string, v *Value) error {
		return it.Update(func(b *bolt.Bucket) error { return it.SetValue(b, key, v) })
	}
	row := func(fn func(*RowWriter) error) error {
		return s.Write(func(w *Writer) error {
			r, err := w.Row("ok")
			if err != nil {
				return err
			}
			return fn(r)
		})
	}
	for _, key := range []string{"", long, "a\x00b"} {
		for i, err := range []error{
			put(key, &Value{Value: []byte("1")}),
			it.SetExternal(key, []byte("x")),
			row(func(r *RowWriter) error { return r.Set(key, 1, "") }),
			row(func(r *RowWriter) error { return r.Clear(key) }),
			row(func(r *RowWriter) error { return r.SetExternal(key, nil) }),
			s.Later("ok", map[string]any{key: 1}),
		} {
			require.True(t, errdefs.IsInvalidArgument(err), "%d %.20q: %v", i, key, err)
		}
	}
	for _, index := range []string{long[:32768-3], "a\x00b", "\xff"} {
		require.True(t, errdefs.IsInvalidArgument(put("k", &Value{Index: index})))
		require.True(t, errdefs.IsInvalidArgument(row(func(r *RowWriter) error { return r.Set("k", 1, index) })))
	}
	for i, err := range []error{
		put("k", &Value{Value: []byte("{")}),
		row(func(r *RowWriter) error { return r.SetRaw("k", Value{Value: []byte("{")}) }),
		row(func(r *RowWriter) error { return r.Set("k", func() {}, "") }),
		s.Later("ok", map[string]any{"k": make(chan int)}),
		s.Write(nil),
		it.SetValue(nil, "k", nil),
	} {
		require.True(t, errdefs.IsInvalidArgument(err), "%d %v", i, err)
	}
	it.Queue(nil)
	for i, err := range []error{
		s.View("ok", nil), s.Update("ok", nil), s.Scan(nil), s.ReadRow("ok", nil), it.Update(nil),
		it.GetAndSetValue("k", nil), it.Commit(), RowView{}.Each(func([]byte, RawValue) error { return nil }),
		s.ReadRow("ok", func(r RowView) error { return r.Each(nil) }),
	} {
		require.True(t, errdefs.IsInvalidArgument(err), "%d %v", i, err)
	}
	_, err := NewValue(func() {})
	require.True(t, errdefs.IsInvalidArgument(err))
	require.Equal(t, before, dump(t, s.DB()))
	require.Equal(t, n, db.committed())
	require.NoError(t, put("k", &Value{Index: long[:32768-4]}))
	require.NoError(t, s.Clear("ok"))
	require.Empty(t, entries(t, s))
}
