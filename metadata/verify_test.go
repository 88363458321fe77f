package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// sampleDB returns the bytes of a database with trees of several levels, inline and nested
// buckets, values over several pages and free pages. Without a free list it is what a killed
// process leaves.
func sampleDB(t testing.TB, freelist bool) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.db")
	s, err := NewStore(path)
	require.NoError(t, err)
	for batch := range 3 {
		require.NoError(t, s.Write(func(w *Writer) error {
			for i := range 24 {
				id := fmt.Sprintf("record-%d-%03d", batch, i)
				r, err := w.Create(id)
				if err != nil {
					return err
				}
				for k := range 6 + i {
					if err := r.Set(fmt.Sprintf("key%02d", k), fmt.Sprintf("value %d of %s", k, id), fmt.Sprintf("i%d::%d", k%4, i)); err != nil {
						return err
					}
				}
				if i%10 == 0 {
					if err := r.SetExternal("big", bytes.Repeat([]byte(id), 1500)); err != nil {
						return err
					}
				}
			}
			return nil
		}))
	}
	for i := range 8 {
		require.NoError(t, s.Clear(fmt.Sprintf("record-1-%03d", i)))
	}
	var content []byte
	if !freelist {
		content, err = os.ReadFile(path)
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	if freelist {
		content, err = os.ReadFile(path)
		require.NoError(t, err)
	}
	return content
}

// exercise opens a file and does a little of everything. Only a typed error may come of it.
func exercise(t testing.TB, path string) error {
	t.Helper()
	s, err := NewStore(path, WithoutSalvage())
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotDatabase) {
			t.Errorf("error without a type: %v", err)
		}
		return err
	}
	return use(t, s)
}

// use does a little of everything and closes the store.
func use(t testing.TB, s *Store) error {
	var errs []error
	_, err := s.Search(context.Background(), "", true)
	errs = append(errs, err, s.Scan(func(_ []byte, r RowView) error {
		return r.Each(func([]byte, RawValue) error { return nil })
	}))
	items, err := s.All()
	errs = append(errs, err, s.Write(func(w *Writer) error {
		for i, it := range items {
			if i%3 > 0 {
				continue
			}
			if err := w.Remove(it.ID()); err != nil {
				return err
			}
		}
		return nil
	}))
	for i, it := range items {
		it.Get("key01")
		_, _ = it.GetExternal("big")
		if i%21 == 1 {
			errs = append(errs, it.SetExternal("new", []byte("x")))
		}
	}
	errs = append(errs, s.Close())
	for _, err := range errs {
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("error without a type: %v", err)
		}
	}
	return errors.Join(errs...)
}

// TestDamage opens files with damage of every kind and works on with what opens.
// fault 30
func TestDamage(t *testing.T) {
	const page = 4096
	for _, freelist := range []bool{true, false} {
		sample := sampleDB(t, freelist)
		require.Zero(t, len(sample)%page)
		dir := memoryDir(t)
		n := 0
		damage := func(what string, mustFail bool, change func(b []byte) []byte) {
			n++
			path := filepath.Join(dir, fmt.Sprint(n))
			require.NoError(t, os.WriteFile(path, change(bytes.Clone(sample)), 0o600))
			if mustFail || n%4 == 0 {
				checkSalvage(t, path)
			}
			err := exercise(t, path)
			if mustFail {
				require.Error(t, err, what)
				require.True(t, errdefs.IsDataLoss(err), "%s: %v", what, err)
			}
			require.NoError(t, os.Remove(path))
		}
		damage("none", false, func(b []byte) []byte { return b })
		damage("first root", false, func(b []byte) []byte { clear(b[:page]); return b })
		damage("second root", false, func(b []byte) []byte { clear(b[page : 2*page]); return b })
		damage("both roots", true, func(b []byte) []byte { clear(b[:2*page]); return b })
		damage("magic kept", true, func(b []byte) []byte { clear(b[40 : 2*page]); return b })
		for at := page; at < len(sample); at += 7 * page {
			damage("cut off", at < len(sample)/2, func(b []byte) []byte { return b[:at] })
			damage("cut off in a page", at < len(sample)/2, func(b []byte) []byte { return b[:at+100] })
		}
		for at := 2 * page; at < len(sample); at += 5 * page {
			damage("zeroed page", false, func(b []byte) []byte { clear(b[at : at+page]); return b })
			damage("copied page", false, func(b []byte) []byte { copy(b[at:], b[at-page:at]); return b })
		}
		rnd := rand.New(rand.NewPCG(1, uint64(len(sample))))
		for range 150 {
			damage("flipped bits", false, func(b []byte) []byte {
				for range 1 + rnd.IntN(4) {
					// Most of the structure is at the start of a page.
					at := rnd.IntN(len(b)/page)*page + rnd.IntN(1<<(1+rnd.IntN(12)))
					b[at] ^= 1 << rnd.IntN(8)
				}
				return b
			})
		}
	}
}

// TestVerifyHealthy changes trees of many levels at random and expects nothing to be found,
// with and without a free list.
// fault 30
func TestVerifyHealthy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small-pages.db")
	rnd := rand.New(rand.NewPCG(7, 7))
	for round := range 12 {
		db, err := bolt.Open(path, 0o600, &bolt.Options{
			PageSize: 1024, NoSync: true, NoFreelistSync: round%2 == 0, FreelistType: bolt.FreelistMapType,
		})
		require.NoError(t, err)
		for range 6 {
			require.NoError(t, db.Update(func(tx *bolt.Tx) error { return shuffle(tx, rnd) }))
		}
		require.NoError(t, db.Close())
		f, err := os.Open(path)
		require.NoError(t, err)
		fi, err := f.Stat()
		require.NoError(t, err)
		lacks, err := verify(f, fi.Size())
		require.NoError(t, err)
		require.Equal(t, round%2 == 0, lacks)
		require.NoError(t, f.Close())
	}
}

// TestVerifyLongFreelist reads a free list whose length does not fit its page's header.
// fault 30
func TestVerifyLongFreelist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "long.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoSync: true, FreelistType: bolt.FreelistMapType})
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("b"))
		if err != nil {
			return err
		}
		return b.Put([]byte("large"), make([]byte, 70_000*1024))
	}))
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("b")).Delete([]byte("large")) }))
	require.NoError(t, db.Close())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	fi, err := f.Stat()
	require.NoError(t, err)
	lacks, err := verify(f, fi.Size())
	require.NoError(t, err)
	require.False(t, lacks)
	// The first page in it twice, a page that does not exist, and a length beyond the page.
	at := int64(freelistPageOf(t, path))*1024 + pageHeader
	var second [8]byte
	_, err = f.ReadAt(second[:], at+16)
	require.NoError(t, err)
	for _, change := range []struct {
		at    int64
		value []byte
	}{{at + 8, second[:]}, {at + 8, bytes.Repeat([]byte{0xFF}, 8)}, {at, bytes.Repeat([]byte{0x7F}, 8)}} {
		_, err = f.WriteAt(change.value, change.at)
		require.NoError(t, err)
		_, err = verify(f, fi.Size())
		require.ErrorIs(t, err, ErrCorrupt)
	}
}

// shuffle puts and deletes keys of two nested buckets and of one that comes and goes.
func shuffle(tx *bolt.Tx, rnd *rand.Rand) error {
	top, err := tx.CreateBucketIfNotExists([]byte("top"))
	if err != nil {
		return err
	}
	inner, err := top.CreateBucketIfNotExists([]byte("inner"))
	if err != nil {
		return err
	}
	for range 200 {
		b := []*bolt.Bucket{top, inner}[rnd.IntN(2)]
		key := fmt.Appendf(nil, "%04d%s", rnd.IntN(1500), bytes.Repeat([]byte("k"), rnd.IntN(60)))
		if rnd.IntN(5) < 3 {
			err = b.Put(key, bytes.Repeat([]byte("v"), rnd.IntN(1<<rnd.IntN(12))))
		} else if k, v := b.Cursor().Seek(key); v != nil {
			err = b.Delete(k)
		}
		if err != nil {
			return err
		}
	}
	if top.Bucket([]byte("come")) != nil {
		return top.DeleteBucket([]byte("come"))
	}
	b, err := top.CreateBucket([]byte("come"))
	if err != nil {
		return err
	}
	for i := range rnd.IntN(300) {
		if err := b.Put(fmt.Appendf(nil, "%d", i), nil); err != nil {
			return err
		}
	}
	return nil
}

// TestDamagedWhileOpen has pages go bad under an open store: reads fail with a type, writes
// stop, and Close leaves the file alone.
// fault 30
func TestDamagedWhileOpen(t *testing.T) {
	sample := sampleDB(t, true)
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	require.NoError(t, os.WriteFile(path, sample, 0o600))
	s, err := NewStore(path)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, len(sample)-2*4096), 2*4096)
	require.NoError(t, err)
	_, err = s.All()
	require.ErrorIs(t, err, ErrCorrupt)
	err = s.Write(create("x"))
	require.ErrorIs(t, err, ErrCorrupt)
	require.True(t, errdefs.IsDataLoss(err))
	// The file may even end before what is mapped.
	require.NoError(t, f.Truncate(2*4096))
	_, err = s.All()
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, s.Close())
	fi, err := f.Stat()
	require.NoError(t, err)
	require.EqualValues(t, 2*4096, fi.Size())
	require.NoError(t, f.Close())

	// Met for the first time by a write, it is the same.
	require.NoError(t, os.WriteFile(path, sample, 0o600))
	s, err = NewStore(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(bytes.Clone(sample[:2*4096]), bytes.Repeat([]byte{0xA5}, len(sample)-2*4096)...), 0o600))
	require.ErrorIs(t, s.Write(create("x")), ErrCorrupt)
	require.ErrorIs(t, s.Write(create("x")), ErrCorrupt)
	require.NoError(t, s.Close())
}

// FuzzOpen opens whatever bytes there are: it never panics, loses none of them, and what it
// salvages opens clean.
// fault 30, fault 43
func FuzzOpen(f *testing.F) {
	sample := sampleDB(f, true)
	f.Add(sample[:4*4096])
	f.Add(sample)
	f.Add(sampleDB(f, false))
	for _, at := range []int{0, 2, 3, len(sample) / 4096 / 2, len(sample)/4096 - 2} {
		damaged := bytes.Clone(sample)
		clear(damaged[at*4096 : (at+1)*4096])
		f.Add(damaged)
		f.Add(sample[:at*4096+2000])
	}
	f.Add(append(make([]byte, 8192), sample[8192:]...))
	f.Add([]byte("not a database"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(memoryDir(t), "fuzz.db")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		if len(content) > 0 {
			checkSalvage(t, path)
			_ = exercise(t, path)
		}
	})
}
