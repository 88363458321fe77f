package local

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache"
)

// What one process makes another finds, by ID and by index. issue item 6
func TestOpenFindsRecords(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		c := openCache(t, dir, opts)
		mutable, err := c.New(t.Context(), nil, nil)
		require.NoError(t, err)
		ref, err := mutable.Commit(t.Context())
		require.NoError(t, err)
		require.NoError(t, ref.Finalize(t.Context()))
		require.NoError(t, ref.SetString("k", "v", "index:v"))
		require.NoError(t, ref.Release(t.Context()))
		require.NoError(t, c.Close())
		require.NoError(t, c.Close(), "closing again")

		c = openCache(t, dir, Options{})
		require.Equal(t, opts.Snapshotter, c.Parts.SnapshotterName)
		found, err := c.Search(t.Context(), "index:v", false)
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, ref.ID(), found[0].ID())
		again, err := c.Get(t.Context(), ref.ID(), nil)
		require.NoError(t, err)
		require.NoError(t, again.Release(t.Context()))
	})
}

// After Close the cache refuses work and the directory is free.
func TestClosed(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, Options{Snapshotter: Native})
	require.NoError(t, c.Close())
	_, err := c.New(t.Context(), nil, nil)
	require.ErrorIs(t, err, cache.ErrClosed)
	_, err = c.Parts.GarbageCollect(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, openCache(t, dir, Options{}).Close())
}

// If the manager cannot be made everything is closed again. Here it meets a record that contradicts
// the store's format.
func TestManagerFails(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, openCache(t, dir, Options{Snapshotter: Native}).Close())
	path := filepath.Join(dir, recordsDB)
	corrupt := func(fn func(*bolt.Bucket) error) {
		db, err := bolt.Open(path, 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("_layercache"))
			require.NoError(t, err)
			return fn(b)
		}))
		require.NoError(t, db.Close())
	}
	var id []byte
	corrupt(func(b *bolt.Bucket) error {
		id = append(id, b.Get([]byte("storeID"))...)
		if err := b.Delete([]byte("storeID")); err != nil {
			return err
		}
		_, err := b.CreateBucket([]byte("storeID"))
		return err
	})
	for range 2 {
		c, err := Open(t.Context(), dir, Options{})
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrInUse)
		require.Nil(t, c)
	}
	corrupt(func(b *bolt.Bucket) error {
		if err := b.DeleteBucket([]byte("storeID")); err != nil {
			return err
		}
		return b.Put([]byte("storeID"), id)
	})
	require.NoError(t, openCache(t, dir, Options{}).Close())
}

// The collection in the background removes what a dead process left unprotected, and Close waits for it.
func TestBackgroundCollection(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		p := openParts(t, dir, opts)
		require.NoError(t, p.Snapshotter.Prepare(t.Context(), "unleased", ""))
		require.NoError(t, p.Close())

		c := openCache(t, dir, opts)
		<-c.collecting
		require.NoError(t, c.Close())

		p = openParts(t, dir, opts)
		_, err := p.Snapshotter.Stat(t.Context(), "unleased")
		require.Error(t, err)
		require.Empty(t, snapshotDirs(t, p))
	})
}

// The options of the manager arrive there.
func TestManagerOptions(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native, TrackHolders: true, Hooks: cache.Hooks{
		LayerContext: func(ctx context.Context, _ string) context.Context { return ctx },
	}})
	opt := p.ManagerOpt()
	require.True(t, opt.TrackHolders)
	require.NotNil(t, opt.Hooks.LayerContext)
	require.Equal(t, p.Dir, opt.Root)
	require.Equal(t, filepath.Join(p.Dir, mountPoolDir), opt.MountPoolRoot)
	require.Same(t, p.Transactions, opt.Transactions)
}
