package metadata

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// TestReopen opens without writing, keeps everything, and leaves a free list behind.
// spec META-2, META-15, fault 33
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	s, err := NewStore(path)
	require.NoError(t, err)
	require.NoError(t, s.Write(create("a")))
	id, err := s.StoreID()
	require.NoError(t, err)
	require.Regexp(t, `^[a-z0-9]{20,40}$`, id)

	// Somebody else meets the lock at once; the file is as it was.
	began := time.Now()
	_, err = NewStore(path)
	require.ErrorIs(t, err, ErrDatabaseLocked)
	require.True(t, errdefs.IsUnavailable(err))
	require.Contains(t, err.Error(), path)
	require.Less(t, time.Since(began), 10*time.Second)
	require.Equal(t, ^uint64(0), freelistPageOf(t, path))
	require.NoError(t, s.Write(create("b")))
	want := dump(t, s.DB())
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.NotEqual(t, ^uint64(0), freelistPageOf(t, path))

	content, err := os.ReadFile(path)
	require.NoError(t, err)
	s, err = NewStore(path)
	require.NoError(t, err)
	again, err := s.StoreID()
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.Equal(t, want, dump(t, s.DB()))
	require.Equal(t, []string{"a"}, found(t, s, "i:a"))
	require.NoError(t, s.Close())
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, content, after)

	// bbolt with its defaults opens it as well.
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Nanosecond})
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// freelistPageOf returns where the newest root says the free list is.
func freelistPageOf(t testing.TB, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	fi, err := f.Stat()
	require.NoError(t, err)
	m, err := readMeta(f, fi.Size())
	require.NoError(t, err)
	return m.freelist
}

// TestStoreID is written once, whoever asks first.
// spec INIT-11
func TestStoreID(t *testing.T) {
	s, db := newStore(t)
	two := NewStoreWithDB(db)
	one, err := s.StoreID()
	require.NoError(t, err)
	require.Equal(t, 1, db.committed())
	other, err := two.StoreID()
	require.NoError(t, err)
	require.Equal(t, one, other)
	require.Equal(t, 1, db.committed())
	require.NoError(t, s.writeShared(func(tx *txn) error {
		claimed, err := tx.claimStoreID("late")
		require.Equal(t, one, claimed)
		return err
	}))
	require.Equal(t, map[string]string{"_layercache": "bucket", "_layercache\x00storeID": "=" + one}, dump(t, s.DB()))
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error {
		return tx.Bucket(ownBucket).Put(storeIDKey, []byte("../\x00"))
	}))
	_, err = NewStoreWithDB(db).StoreID()
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestLegacy refuses to start afresh beside version-1 metadata.
// spec META-2
func TestLegacy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "metadata_v2.db")
	require.NoError(t, CheckLegacy(path))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "metadata.db"), []byte("v1"), 0o600))
	for _, err := range []error{CheckLegacy(path), func() error { _, err := NewStore(path); return err }()} {
		require.ErrorIs(t, err, ErrLegacyMetadata)
		require.True(t, errdefs.IsFailedPrecondition(err))
		require.Contains(t, err.Error(), "migrate")
		require.Contains(t, err.Error(), filepath.Join(dir, "metadata.db"))
	}
	require.NoFileExists(t, path)
	require.NoError(t, CheckLegacy(filepath.Join(dir, "metadata.db")))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, CheckLegacy(path))
	s, err := NewStore(path)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

// TestNotDatabase leaves what is no database as it is.
// fault 30
func TestNotDatabase(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"text":   strings.Repeat("hello\n", 5000),
		"short":  "x",
		"zeroes": string(make([]byte, 1<<16)),
		"sqlite": "SQLite format 3\x00" + string(make([]byte, 8192)),
	} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := NewStore(path)
		require.ErrorIs(t, err, ErrNotDatabase, name)
		require.True(t, errdefs.IsFailedPrecondition(err))
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(after))
	}
	_, err := NewStore(dir)
	require.ErrorIs(t, err, ErrNotDatabase)
	_, err = NewStore(filepath.Join(dir, "missing", "metadata_v2.db"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestReadOnlyHandle passes a database that cannot be written.
func TestReadOnlyHandle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	s, err := NewStore(path)
	require.NoError(t, err)
	require.NoError(t, s.Write(create("a")))
	require.NoError(t, s.Close())
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	require.NoError(t, err)
	s = NewStoreWithDB(db)
	require.Equal(t, []string{"a"}, allIDs(t, s))
	err = s.Write(create("b"))
	require.ErrorIs(t, err, ErrReadOnly)
	require.True(t, errdefs.IsPermissionDenied(err))
	require.NoError(t, s.Close())
}

// TestClosed refuses every call.
func TestClosed(t *testing.T) {
	s, _ := newStore(t)
	require.NoError(t, s.Write(create("a")))
	it, _ := s.Get("a")
	it.Queue(func(*bolt.Bucket) error { return nil })
	require.NoError(t, s.Close())
	_, errAll := s.All()
	_, errProbe := s.Probe("x")
	_, errSearch := s.Search(context.Background(), "x", true)
	_, errExternal := it.GetExternal("x")
	_, errID := s.StoreID()
	for i, err := range []error{
		errAll, errProbe, errSearch, errExternal, errID,
		s.View("a", nil), s.Update("a", nil), s.Clear("a"), s.Write(create("b")),
		s.Scan(nil), s.ReadRow("a", nil), s.Later("a", nil), s.Flush(),
		it.Update(nil), it.SetExternal("x", nil), it.Commit(), it.GetAndSetValue("k", nil),
	} {
		require.ErrorIs(t, err, ErrClosed, "%d", i)
		require.True(t, errdefs.IsFailedPrecondition(err))
	}
	_, exists := s.Get("a")
	require.False(t, exists)
	require.Nil(t, it.Get("k"))

	// A database that was closed below the store looks the same.
	s, db := newStore(t)
	f, ok := db.DB.(*file)
	require.True(t, ok)
	require.NoError(t, f.bolt.Close())
	require.ErrorIs(t, s.Write(create("b")), ErrClosed)
	_, err := s.All()
	require.ErrorIs(t, err, ErrClosed)
	f.dirty = false
}

// TestNoDatabase has nothing below the store.
func TestNoDatabase(t *testing.T) {
	s := NewStoreWithDB(nil)
	require.ErrorIs(t, s.Write(create("a")), ErrClosed)
	_, err := s.All()
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, s.Close())
}

// TestCloseWaits lets what is under way finish.
func TestCloseWaits(t *testing.T) {
	s, db := newStore(t)
	var wrote error
	release := db.holdUp(t, func() { wrote = s.Write(create("a")) })
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	require.Eventually(t, func() bool {
		_, err := s.Probe("x")
		return errdefs.IsFailedPrecondition(err)
	}, testTimeout, testPoll)
	select {
	case err := <-closed:
		t.Fatal("closed under a write", err)
	default:
	}
	release()
	require.NoError(t, wrote)
	require.NoError(t, <-closed)
}
