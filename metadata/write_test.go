package metadata

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// create returns a change that makes a record with one value.
func create(id string) func(*Writer) error {
	return func(w *Writer) error {
		r, err := w.Create(id)
		if err != nil {
			return err
		}
		return r.Set("k", id, "i:"+id)
	}
}

// allIDs returns the IDs of all records.
func allIDs(t testing.TB, s *Store) []string {
	t.Helper()
	items, err := s.All()
	require.NoError(t, err)
	return ids(items)
}

// holdUp makes the next write transactions wait before they commit. It returns when one does;
// the function it returns lets them all go on.
func (c *countingDB) holdUp(t testing.TB, first func()) (release func()) {
	t.Helper()
	c.mu.Lock()
	c.gate, c.waiting = make(chan struct{}), make(chan struct{}, 1)
	waiting := c.waiting
	c.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(first)
	<-waiting
	return func() {
		c.mu.Lock()
		gate := c.gate
		c.gate = nil
		c.mu.Unlock()
		close(gate)
		wg.Wait()
	}
}

// queued waits until n writes wait for the leader.
func queued(t testing.TB, s *Store, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.commits.mu.Lock()
		defer s.commits.mu.Unlock()
		return len(s.commits.ops) == n
	}, testTimeout, testPoll)
}

// TestGroupCommit has many writers share the one transaction after the one under way.
// spec META-1, quirk Q05
func TestGroupCommit(t *testing.T) {
	s, db := newStore(t)
	const n = 50
	errs := make(chan error, n+1)
	release := db.holdUp(t, func() { errs <- s.Write(create("first")) })
	for i := range n {
		go func() { errs <- s.Write(create(fmt.Sprintf("id%02d", i))) }()
	}
	queued(t, s, n)
	release()
	for range n + 1 {
		require.NoError(t, <-errs)
	}
	require.Equal(t, 2, db.committed())
	require.Len(t, allIDs(t, s), n+1)

	// A lone writer has a transaction of its own, and one without changes commits none.
	require.NoError(t, s.Write(create("last")))
	require.Equal(t, 3, db.committed())
	for _, fn := range []func(*Writer) error{
		func(*Writer) error { return nil },
		func(w *Writer) error { return w.Remove("unknown") },
		func(w *Writer) error {
			r, err := w.Row("last")
			if err != nil {
				return err
			}
			require.Equal(t, "last", r.ID())
			require.Equal(t, &Value{Value: []byte(`"last"`), Index: "i:last"}, r.Get("k"))
			require.Nil(t, r.Get("missing"))
			for _, err := range []error{r.Set("k", "last", "i:last"), r.Clear("missing"), r.ClearIndex("missing")} {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		require.NoError(t, s.Write(fn))
	}
	require.Equal(t, 3, db.committed())
}

// TestGroupIsolation mixes writes that fail in every way into a shared transaction.
// spec META-1
func TestGroupIsolation(t *testing.T) {
	s, db := newStore(t)
	require.NoError(t, s.Write(create("there")))
	boom := errors.New("boom")
	type result struct {
		name  string
		err   error
		panic any
	}
	results := make(chan result, 100)
	write := func(name string, fn func(w *Writer) error) {
		go func() {
			r := result{name: name}
			defer func() {
				r.panic = recover()
				results <- r
			}()
			r.err = s.Write(fn)
		}()
	}
	release := db.holdUp(t, func() {
		if err := s.Write(create("first")); err != nil {
			t.Error(err)
		}
	})
	for i := range 5 {
		write("good", create(fmt.Sprintf("good%d", i)))
		write("boom", func(w *Writer) error {
			if err := create(fmt.Sprintf("bad%d", i))(w); err != nil {
				return err
			}
			if err := w.Remove("there"); err != nil {
				return err
			}
			return boom
		})
		write("exists", create("there"))
		write("panic", func(w *Writer) error {
			if err := create(fmt.Sprintf("bad%d", i))(w); err != nil {
				return err
			}
			panic(boom)
		})
	}
	queued(t, s, 20)
	release()
	for range 20 {
		switch r := <-results; r.name {
		case "good":
			require.NoError(t, r.err)
			require.Nil(t, r.panic)
		case "boom":
			require.ErrorIs(t, r.err, boom)
		case "exists":
			require.True(t, errdefs.IsAlreadyExists(r.err), "%v", r.err)
		case "panic":
			err, ok := r.panic.(error)
			require.True(t, ok)
			require.ErrorIs(t, err, boom)
			require.Contains(t, err.Error(), "TestGroupIsolation") // where it came from
		}
	}
	require.Equal(t, []string{"first", "good0", "good1", "good2", "good3", "good4", "there"}, allIDs(t, s))
}

// TestGroupCommitFails gives every caller the error of the commit, and an error that came of a
// neighbour's change only once that change is there.
// spec META-10
func TestGroupCommitFails(t *testing.T) {
	s, db := newStore(t)
	disk := errors.New("disk full")
	errs := make(chan error, 2)
	var first error
	release := db.holdUp(t, func() { first = s.Write(create("first")) })
	for range 2 {
		go func() { errs <- s.Write(create("twice")) }()
	}
	queued(t, s, 2)
	db.failWith(disk)
	release()
	require.NoError(t, first) // its transaction began before
	require.ErrorIs(t, <-errs, disk)
	require.ErrorIs(t, <-errs, disk)
	db.failWith(nil)
	require.Equal(t, []string{"first"}, allIDs(t, s))
	require.NoError(t, s.Write(create("twice")))
}

// TestCallbackEndsGoroutine abandons a write from within, as t.FailNow does.
func TestCallbackEndsGoroutine(t *testing.T) {
	s, _ := newStore(t)
	it, _ := s.Get("a")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = it.Update(func(b *bolt.Bucket) error {
			runtime.Goexit()
			return nil
		})
	}()
	<-done
	require.Empty(t, allIDs(t, s))
	require.PanicsWithError(t, "mine", func() {
		_ = s.DB().View(func(*bolt.Tx) error { panic(errors.New("mine")) })
	})
	require.PanicsWithValue(t, "mine", func() {
		_ = s.Scan(func([]byte, RowView) error { return nil })
		_ = s.view(func(*bolt.Tx) error { panic("mine") })
	})
	require.NoError(t, s.Write(create("b")))
	require.Equal(t, []string{"b"}, allIDs(t, s))
}

// TestWriterRules covers what a writer refuses.
// spec META-7, META-11, META-15
func TestWriterRules(t *testing.T) {
	s, _ := newStore(t)
	var kept *Writer
	var row *RowWriter
	require.NoError(t, s.Write(func(w *Writer) (err error) {
		kept = w
		row, err = w.Create("a")
		return err
	}))
	_, err := kept.Create("b")
	require.True(t, errdefs.IsFailedPrecondition(err))
	_, err = kept.Row("a")
	require.True(t, errdefs.IsFailedPrecondition(err))
	require.Nil(t, row.Get("k"))
	for _, err := range []error{kept.Remove("a"), row.Set("k", 1, ""), row.Clear("k"), row.SetExternal("k", nil), row.ClearIndex("i"), row.AppendSet("k")} {
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
	}
	// Removed and made again in one transaction, the old writer stays with the old record.
	require.NoError(t, s.Write(func(w *Writer) error {
		r, err := w.Row("a")
		if err != nil {
			return err
		}
		if err := r.Set("k", 1, "i"); err != nil {
			return err
		}
		if err := w.Remove("a"); err != nil {
			return err
		}
		require.ErrorIs(t, r.Set("k", 2, "i"), ErrRecordRemoved)
		if err := create("a")(w); err != nil {
			return err
		}
		require.ErrorIs(t, r.Set("k", 2, "i"), ErrRecordRemoved)
		return nil
	}))
	require.Equal(t, []string{"i:a::a"}, entries(t, s))

	// What fails inside the database fails the write even if the caller looks away.
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error {
		b, err := tx.Bucket(mainBucket).Bucket([]byte("a")).CreateBucket([]byte("nested"))
		if err != nil {
			return err
		}
		return b.Put([]byte("x"), nil)
	}))
	require.ErrorIs(t, s.Write(func(w *Writer) error {
		r, err := w.Row("a")
		if err != nil {
			return err
		}
		_ = r.Set("nested", 1, "")
		return nil
	}), ErrCorrupt)
	require.NoError(t, s.Clear("a"))
	require.Empty(t, allIDs(t, s))
}

// TestConcurrentUse runs everything against everything, for the race detector.
// fault 27
func TestConcurrentUse(t *testing.T) {
	s, _ := newStore(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 40 {
				id := fmt.Sprintf("id%d", (g+i)%5)
				it, _ := s.Get(id)
				err := s.Write(func(w *Writer) error {
					r, err := w.Row(id)
					if errdefs.IsNotFound(err) {
						r, err = w.Create(id)
					}
					if err != nil {
						return err
					}
					return r.Set("k", i, fmt.Sprintf("i%d", i%3))
				})
				if err == nil {
					err = s.Later(id, map[string]any{"n": i})
				}
				if err == nil && i%7 == 0 {
					err = s.Clear(id)
				}
				if err == nil {
					_, err = s.All()
				}
				if uerr := it.SetExternal("e", []byte{1}); uerr != nil && !errors.Is(uerr, ErrRecordRemoved) {
					err = uerr
				}
				it.Get("k")
				it.Get("n")
				it.Keys()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkConsistent(t, s)
}

// checkConsistent compares the index with what the values name and the external items with
// the records.
func checkConsistent(t testing.TB, s *Store) {
	t.Helper()
	want := []string{}
	seen := map[string]bool{}
	require.NoError(t, s.DB().View(func(tx *bolt.Tx) error {
		for k := range dumpKeys(tx, externalBucket) {
			require.NotNil(t, tx.Bucket(mainBucket).Bucket([]byte(k)), "external item of missing record %s", k)
		}
		for k := range dumpKeys(tx, mainBucket) {
			for _, index := range rowIndexes(tx.Bucket(mainBucket).Bucket([]byte(k))) {
				if key := string(indexKey(index, k)); !seen[key] {
					seen[key] = true
					want = append(want, key)
				}
			}
		}
		return nil
	}))
	require.ElementsMatch(t, want, entries(t, s))
}

func dumpKeys(tx *bolt.Tx, name []byte) map[string]bool {
	out := map[string]bool{}
	if b := tx.Bucket(name); b != nil {
		c := b.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			out[string(k)] = true
		}
	}
	return out
}
