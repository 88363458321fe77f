package metadata

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// TestLayout pins the bytes that BuildKit reads.
// spec META-2, META-3, META-4, META-5
func TestLayout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	s, err := NewStore(path)
	require.NoError(t, err)
	require.NoError(t, s.Write(func(w *Writer) error {
		r, err := w.Create("id1")
		if err != nil {
			return err
		}
		for _, err := range []error{
			r.Set("n", 12, ""),
			r.Set("s", "a<b>&\u2028", "git-remote::https://x/?a=1&b=<2>"),
			r.Set("gone", true, "soon"),
			r.SetRaw("raw", Value{Value: []byte(`{"a": [1, 2]}`), Index: "i"}),
			r.SetRaw("idx", Value{Index: "only"}),
			r.SetExternal("ext", []byte{0, 1}),
			r.Clear("gone"),
			r.Clear("never"),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	}))
	require.Equal(t, map[string]string{
		"_main":                "bucket",
		"_main\x00id1":         "bucket",
		"_main\x00id1\x00n":    `={"value":12}`,
		"_main\x00id1\x00s":    `={"value":"a\u003cb\u003e\u0026\u2028","index":"git-remote::https://x/?a=1\u0026b=\u003c2\u003e"}`,
		"_main\x00id1\x00gone": "=",
		"_main\x00id1\x00raw":  `={"value":{"a":[1,2]},"index":"i"}`,
		"_main\x00id1\x00idx":  `={"index":"only"}`,
		"_index":               "bucket",
		"_index\x00git-remote::https://x/?a=1&b=<2>::id1": "=",
		"_index\x00i::id1":        "=",
		"_index\x00only::id1":     "=",
		"_external":               "bucket",
		"_external\x00id1":        "bucket",
		"_external\x00id1\x00ext": "=\x00\x01",
	}, dump(t, s.DB()))
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode())
	require.NoError(t, s.Close())
}

// TestSearch covers exact and prefix search, indexes that contain the separator, entries
// without a record and keys without a separator.
// spec META-8, META-9, quirk Q06, Q07
func TestSearch(t *testing.T) {
	s, _ := newStore(t)
	set(t, s, "b", "k", 1, "X")
	set(t, s, "a", "k", 1, "X")
	set(t, s, "c", "k", 1, "X::more")
	set(t, s, "d", "k", 1, "X:")
	set(t, s, "e", "k", 1, "Xy")
	set(t, s, "e", "l", 1, "Xz")
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(indexBucket)
		for _, k := range []string{"X", "X::missing", "X::", "noseparator", "X:single"} {
			if err := b.Put([]byte(k), nil); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, tc := range []struct {
		index  string
		prefix bool
		want   []string
	}{
		{"X", false, []string{"a", "b"}},
		{"X::more", false, []string{"c"}},
		{"X:", false, []string{"d"}},
		{"X::", false, []string{}},
		{"Xy", false, []string{"e"}},
		{"noseparator", false, []string{}},
		{"nothing", false, []string{}},
		{"", false, []string{}},
		{"X", true, []string{"d", "a", "b", "c", "e", "e"}},
		{"X::", true, []string{"d", "a", "b", "c"}}, // the bytes of X: and its separator, too
		{"X::a", true, []string{"a"}},
		{"n", true, []string{}},
		{"", true, []string{"d", "a", "b", "c", "e", "e"}},
	} {
		items, err := s.Search(context.Background(), tc.index, tc.prefix)
		require.NoError(t, err)
		require.Equal(t, tc.want, ids(items), "%q prefix=%v", tc.index, tc.prefix)
		if !tc.prefix {
			ok, err := s.Probe(tc.index)
			require.NoError(t, err)
			require.Equal(t, len(tc.want) > 0, ok, "%q", tc.index)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Search(ctx, "X", true)
	require.ErrorIs(t, err, context.Canceled)
}

// TestEmpty asks a database without buckets.
// spec META-3, META-14, META-15
func TestEmpty(t *testing.T) {
	s, db := newStore(t)
	items, err := s.All()
	require.NoError(t, err)
	require.Empty(t, items)
	items, err = s.Search(context.Background(), "x", true)
	require.NoError(t, err)
	require.Empty(t, items)
	ok, err := s.Probe("x")
	require.NoError(t, err)
	require.False(t, ok)
	require.True(t, errdefs.IsNotFound(s.View("x", nil)))
	require.True(t, errdefs.IsNotFound(s.Update("x", nil)))
	require.True(t, errdefs.IsNotFound(s.ReadRow("x", nil)))
	require.NoError(t, s.Scan(func([]byte, RowView) error { return errors.New("no record") }))
	require.NoError(t, s.Clear("x"))
	it, ok := s.Get("x")
	require.False(t, ok)
	require.Nil(t, it.Get("k"))
	require.Empty(t, it.Keys())
	require.Empty(t, it.Indexes())
	_, err = it.GetExternal("k")
	require.True(t, errdefs.IsNotFound(err))
	require.NoError(t, it.Commit())
	require.Zero(t, db.committed())
	require.Empty(t, dump(t, s.DB()))
}

// TestAll lists records in the byte order of their IDs and leaves out what is no bucket.
// spec META-15
func TestAll(t *testing.T) {
	s, _ := newStore(t)
	for _, id := range []string{"b", "a", "B", "aa"} {
		set(t, s, id, "k", id, "")
	}
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error {
		return tx.Bucket(mainBucket).Put([]byte("ab"), []byte("stray"))
	}))
	items, err := s.All()
	require.NoError(t, err)
	require.Equal(t, []string{"B", "a", "aa", "b"}, ids(items))
	var seen []string
	require.NoError(t, s.Scan(func(id []byte, row RowView) error {
		return row.Each(func(_ []byte, v RawValue) error {
			seen = append(seen, string(id)+"="+string(v.Raw()))
			return nil
		})
	}))
	require.Equal(t, []string{`B="B"`, `a="a"`, `aa="aa"`, `b="b"`}, seen)
	stop := errors.New("stop")
	require.ErrorIs(t, s.Scan(func([]byte, RowView) error { return stop }), stop)
}

// afterView runs a function once after the next read transaction.
type afterView struct {
	DB
	then func()
}

func (a *afterView) View(fn func(*bolt.Tx) error) error {
	err := a.DB.View(fn)
	if then := a.then; then != nil {
		a.then = nil
		then()
	}
	return err
}

// TestRemovedWhileListed removes a record between the transaction of a search and its result.
// spec META-11, MV-2
func TestRemovedWhileListed(t *testing.T) {
	_, db := newStore(t)
	hook := &afterView{DB: db}
	s := NewStoreWithDB(hook)
	for _, id := range []string{"a", "b", "c"} {
		require.NoError(t, s.Write(create(id)))
	}
	hook.then = func() { require.NoError(t, s.Clear("b")) }
	require.Equal(t, []string{"a", "c"}, allIDs(t, s))
	hook.then = func() { require.NoError(t, s.Clear("c")) }
	it, ok := s.Get("c")
	require.True(t, ok)
	require.ErrorIs(t, it.SetExternal("e", nil), ErrRecordRemoved)
}

// TestSteadySize inserts and deletes many records: neither the file nor what a commit writes
// grows with their number.
// fault 35
func TestSteadySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	require.NoError(t, err)
	s := NewStoreWithDB(db)
	const rounds, batch, kept = 400, 50, 4 // batches
	var sizes, pages []int64
	for round := range rounds {
		before := db.Stats().TxStats.PageCount
		require.NoError(t, s.Write(func(w *Writer) error {
			for i := range batch {
				if err := fill(w, fmt.Sprintf("%x-%06d-%03d", (round*7919)%256, round, i)); err != nil {
					return err
				}
				if old := round - kept; old >= 0 {
					if err := w.Remove(fmt.Sprintf("%x-%06d-%03d", (old*7919)%256, old, i)); err != nil {
						return err
					}
				}
			}
			return nil
		}))
		fi, err := os.Stat(path)
		require.NoError(t, err)
		sizes, pages = append(sizes, fi.Size()), append(pages, db.Stats().TxStats.PageCount-before)
	}
	require.Len(t, allIDs(t, s), kept*batch)
	checkConsistent(t, s)
	require.Equal(t, sizes[rounds/4], sizes[rounds-1])
	require.LessOrEqual(t, slices.Max(pages[rounds/2:]), 2*slices.Max(pages[kept:rounds/4]))
	require.NoError(t, s.Close())
}
