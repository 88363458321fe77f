package metadata

import (
	"bytes"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// damagedSample writes a database with one damaged leaf into a new directory.
func damagedSample(t testing.TB, freelist bool) (path string, content []byte) {
	t.Helper()
	content = sampleDB(t, freelist)
	clear(content[pageOf(t, content, "record-2-020"):][:4096])
	path = filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path, content
}

// pageOf returns where the page of a record's bucket is.
func pageOf(t testing.TB, content []byte, id string) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), "look")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer db.Close()
	page := 0
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		page = int(rowBucket(tx, id).Root())
		return nil
	}))
	require.Positive(t, page)
	return page * 4096
}

// TestSalvage loses one record to a damaged page, keeps the rest, tells so once, and leaves the
// error to those who ask for it.
// fault 30
func TestSalvage(t *testing.T) {
	path, content := damagedSample(t, true)
	_, err := NewStore(path, WithoutSalvage())
	require.ErrorIs(t, err, ErrCorrupt)
	require.True(t, errdefs.IsDataLoss(err))
	requireOnly(t, filepath.Dir(path), map[string][]byte{"db": content})

	s, err := NewStore(path)
	require.NoError(t, err)
	report := s.Salvaged()
	require.NotNil(t, report)
	require.ErrorIs(t, report.Reason, ErrCorrupt)
	require.Equal(t, []string{"record-2-020"}, report.Lost)
	require.Equal(t, 3*24-8-1, report.Records)
	require.Len(t, report.LostPages, 1)
	require.Equal(t, []int{0, 0, 0, 0}, []int{report.Gaps, report.ExternalGaps, len(report.LostExternals), len(report.LostBuckets)})
	require.False(t, report.NewStoreID) // nothing ever asked for one
	require.Len(t, allIDs(t, s), report.Records)
	require.Equal(t, 3*24-8-1, strings.Count(strings.Join(allIDs(t, s), " "), "record-"))
	it, _ := s.Get("record-2-020")
	_, err = it.GetExternal("big") // goes with its record
	require.Error(t, err)
	report.Lost[0] = "changed"
	require.Equal(t, []string{"record-2-020"}, s.Salvaged().Lost)
	_, err = NewStore(path)
	require.ErrorIs(t, err, ErrDatabaseLocked)
	require.NoError(t, s.Write(create("new")))
	require.NoError(t, s.Close())

	s, err = NewStore(path, WithoutSalvage())
	require.NoError(t, err)
	require.Nil(t, s.Salvaged())
	require.Contains(t, allIDs(t, s), "new")
	require.NoError(t, s.Close())
	kept, err := os.ReadFile(report.Damaged)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, kept))

	// It is damaged again: the first damaged file stays, and the second gets a name of its own.
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	clear(again[:2*4096])
	require.NoError(t, os.WriteFile(path, again, 0o600))
	s, err = NewStore(path)
	require.NoError(t, err)
	require.Equal(t, path+".damaged-2", s.Salvaged().Damaged)
	require.NoError(t, s.Close())
	for name, want := range map[string][]byte{".damaged-1": content, ".damaged-2": again} {
		kept, err := os.ReadFile(path + name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, kept))
	}
	requireNames(t, filepath.Dir(path), "db", "db.damaged-1", "db.damaged-2")
}

// TestSalvageUntouched meets files that are not this store's to salvage.
// fault 30
func TestSalvageUntouched(t *testing.T) {
	path, content := damagedSample(t, true)
	locked, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, lockFile(locked))
	_, err = NewStore(path)
	require.ErrorIs(t, err, ErrDatabaseLocked)
	require.NoError(t, locked.Close())

	// A format of the future is somebody's data, too.
	future := bytes.Clone(content)
	for _, at := range []int{0, 4096} {
		meta := future[at+pageHeader:][:metaSize]
		order.PutUint32(meta[4:], 3)
		sum := fnv.New64a()
		_, _ = sum.Write(meta[:metaSize-8])
		order.PutUint64(meta[metaSize-8:], sum.Sum64())
	}
	other := filepath.Join(filepath.Dir(path), "future")
	require.NoError(t, os.WriteFile(other, future, 0o600))
	_, err = NewStore(other)
	require.ErrorIs(t, err, ErrNotDatabase)
	requireOnly(t, filepath.Dir(path), map[string][]byte{"db": content, "future": future})
}

// TestSalvageThroughLink replaces the file that a link names, not the link.
// fault 30
func TestSalvageThroughLink(t *testing.T) {
	path, _ := damagedSample(t, true)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	s, err := NewStore(link)
	require.NoError(t, err)
	require.Equal(t, path+".damaged-1", s.Salvaged().Damaged)
	require.NoError(t, s.Close())
	requireNames(t, filepath.Dir(link), "link")
	requireNames(t, filepath.Dir(path), "db", "db.damaged-1")
	to, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, path, to)
}

// withOps is an option of the tests.
func withOps(change func(*salvageOps)) Option {
	return func(o *options) { change(&o.salvage) }
}

// TestSalvageWithoutLinks keeps a copy where there are no links, and changes nothing where
// neither can be had.
// fault 30
func TestSalvageWithoutLinks(t *testing.T) {
	path, content := damagedSample(t, true)
	require.NoError(t, os.Mkdir(path+".damaged-1", 0o700)) // the name is taken
	noLinks := withOps(func(o *salvageOps) {
		o.link = func(string, string) error { return errors.New("no links here") }
	})
	inTheWay := withOps(func(o *salvageOps) {
		o.link = func(string, string) error { return errors.New("no links here") }
		o.step = func(name string) {
			if name == "kept" {
				require.NoError(t, os.Remove(path+salvageSuffix))
				require.NoError(t, os.Mkdir(path+salvageSuffix, 0o700))
			}
		}
	})
	_, err := NewStore(path, inTheWay)
	require.ErrorIs(t, err, ErrCorrupt)
	requireNames(t, filepath.Dir(path), "db", "db.damaged-1")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, after))
	s, err := NewStore(path, noLinks)
	require.NoError(t, err)
	require.Equal(t, path+".damaged-2", s.Salvaged().Damaged)
	kept, err := os.ReadFile(path + ".damaged-2")
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, kept))
	require.NoError(t, s.Close())
}

// TestSalvageFails cannot make the new file, and leaves everything as it was.
// fault 30
func TestSalvageFails(t *testing.T) {
	path, content := damagedSample(t, true)
	require.NoError(t, os.MkdirAll(path+salvageSuffix+"/in the way", 0o700))
	_, err := NewStore(path)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, err, syscall.ENOTEMPTY)
	requireNames(t, filepath.Dir(path), "db", "db.salvage")
	require.NoError(t, os.RemoveAll(path+salvageSuffix))
	requireOnly(t, filepath.Dir(path), map[string][]byte{"db": content})

	// What a process that died left is in nobody's way.
	require.NoError(t, os.WriteFile(path+salvageSuffix, []byte("half"), 0o600))
	s, err := NewStore(path)
	require.NoError(t, err)
	require.NotNil(t, s.Salvaged())
	require.NoError(t, s.Close())
	requireNames(t, filepath.Dir(path), "db", "db.damaged-1")
}

// TestSalvageLocks keeps everybody out from the first look at the damaged file to the last
// step, and lets one of many do the work.
// fault 30, fault 33
func TestSalvageLocks(t *testing.T) {
	path, content := damagedSample(t, true)
	var steps []string
	s, err := NewStore(path, withOps(func(o *salvageOps) {
		o.step = func(name string) {
			steps = append(steps, name)
			_, err := NewStore(path)
			require.ErrorIs(t, err, ErrDatabaseLocked, name)
		}
	}))
	require.NoError(t, err)
	require.Equal(t, []string{"written", "kept", "replaced"}, steps)
	require.NoError(t, s.Close())

	for range 10 {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(t, err)
		path := filepath.Join(dir, "db")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		var wg sync.WaitGroup
		var mu sync.Mutex
		reports := 0
		for range 4 {
			wg.Go(func() {
				s, err := NewStore(path)
				if err != nil {
					if !errors.Is(err, ErrDatabaseLocked) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if s.Salvaged() != nil {
					reports++
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, reports)
		requireNames(t, dir, "db", "db.damaged-1")
	}
}

// TestReplacedMeanwhile has opened a file that is replaced before it has the lock.
// fault 30, fault 33
func TestReplacedMeanwhile(t *testing.T) {
	path, content := damagedSample(t, true)
	require.NoError(t, os.WriteFile(path+".new", content, 0o600))
	old, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer old.Close()
	require.NoError(t, sameFile(old, path))
	require.NoError(t, os.Rename(path+".new", path))
	require.ErrorIs(t, sameFile(old, path), ErrDatabaseLocked)
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, sameFile(old, path), ErrDatabaseLocked)
}

// TestSalvageStoreID finds the store ID in a page of any age, and says so if it is gone.
// fault 30, spec INIT-11
func TestSalvageStoreID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s, err := NewStore(path)
	require.NoError(t, err)
	want, err := s.StoreID()
	require.NoError(t, err)
	for _, id := range []string{"a", "b", "c"} {
		require.NoError(t, s.Write(create(id)))
	}
	require.NoError(t, s.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)

	reopen := func(change func(b []byte)) (*SalvageReport, string) {
		b := bytes.Clone(content)
		change(b)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		s, err := NewStore(path)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		require.NotNil(t, s.Salvaged())
		id, err := s.StoreID()
		require.NoError(t, err)
		return s.Salvaged(), id
	}
	// Without roots nothing tells which state is the last one, so no record is believed.
	report, id := reopen(func(b []byte) { clear(b[:2*4096]) })
	require.Equal(t, want, id)
	require.False(t, report.NewStoreID)
	require.Zero(t, report.Records)
	require.Equal(t, 1, report.Gaps)
	report, id = reopen(func(b []byte) {
		for at := bytes.Index(b, []byte(want)); at >= 0; at = bytes.Index(b, []byte(want)) {
			b[at] = '/'
		}
		clear(b[:2*4096])
	})
	require.NotEqual(t, want, id)
	require.True(t, report.NewStoreID)
	// Two different ones: which is right is not known.
	report, id = reopen(func(b []byte) {
		b[bytes.Index(b, []byte(want))] ^= 1
		clear(b[:2*4096])
	})
	require.NotEqual(t, want, id)
	require.True(t, report.NewStoreID)
}

// TestSalvageContestedPage has the free list name a page that is in use: what is on it is not believed.
// fault 30
func TestSalvageContestedPage(t *testing.T) {
	content := sampleDB(t, true)
	path := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	list := int(freelistPageOf(t, path)) * 4096
	count := int(order.Uint16(content[list+10:]))
	require.Positive(t, count)
	used := uint64(pageOf(t, content, "record-2-020") / 4096)
	at := list + pageHeader // keep the list in order
	for n := 0; n+1 < count && order.Uint64(content[at+8:]) < used; n++ {
		at += 8
	}
	order.PutUint64(content[at:], used)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	s, err := NewStore(path)
	require.NoError(t, err)
	require.Equal(t, []string{"record-2-020"}, s.Salvaged().Lost)
	require.Equal(t, 3*24-8-1, s.Salvaged().Records)
	require.NoError(t, s.Close())
}

// TestSalvageSharedPage has two records point to one page: neither is believed.
// fault 30
func TestSalvageSharedPage(t *testing.T) {
	content := sampleDB(t, false)
	one, two := pageOf(t, content, "record-2-020"), pageOf(t, content, "record-0-021")
	var from, to [8]byte
	order.PutUint64(from[:], uint64(one/4096))
	order.PutUint64(to[:], uint64(two/4096))
	head := append([]byte("record-2-020"), from[:]...)
	require.True(t, bytes.Contains(content, head))
	content = bytes.ReplaceAll(content, head, append([]byte("record-2-020"), to[:]...))
	path := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	s, err := NewStore(path)
	require.NoError(t, err)
	require.Equal(t, []string{"record-0-021", "record-2-020"}, s.Salvaged().Lost)
	require.NoError(t, s.Close())
}
