package local

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
)

// unsyncedRows counts the rows of a closed directory that say that their tree may not be on disk.
func unsyncedRows(t *testing.T, dir string) (n int) {
	t.Helper()
	store, err := metadata.NewStore(filepath.Join(dir, recordsDB))
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	items, err := store.All()
	require.NoError(t, err)
	for _, item := range items {
		if item.Get("layercache.unsynced") != nil {
			n++
		}
	}
	return n
}

// Design section 5: what is written is marked under the system's boot ID until it is flushed: by Close, or, with Sync, before
// Finalize returns. A crash of the process alone costs nothing either way.
func TestSync(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		opts.NoBackgroundGC = true
		for _, opts.Sync = range []bool{false, true} {
			dir := t.TempDir()
			p := openParts(t, dir, opts)
			m, err := cache.NewManager(p.ManagerOpt())
			require.NoError(t, err)
			id, err := layerCycle(t.Context(), m, nil)
			require.NoError(t, err)
			item, ok := p.MetadataStore.Get(id)
			require.True(t, ok)
			require.Equal(t, !opts.Sync, item.Get("layercache.unsynced") != nil)
			// The manager is left as a process leaves it that dies: with nothing flushed and nothing closed in order.
			require.NoError(t, p.Close())
			require.Equal(t, map[bool]int{false: 1, true: 0}[opts.Sync], unsyncedRows(t, dir))

			c := openCache(t, dir, opts)
			ref, err := c.Get(t.Context(), id, nil)
			require.NoError(t, err)
			require.NoError(t, ref.Release(t.Context()))
			require.NoError(t, c.Close())
			require.Zero(t, unsyncedRows(t, dir))
			require.Equal(t, opts.Sync, m.Close() == nil, "what is not flushed cannot be any more: the parts are closed")
		}
	})
}

// Fault 26: a flush ends for its caller with the caller's context, and there is none after Close.
func TestFlushEnds(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	require.NoError(t, p.syncFS(t.Context()))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.syncFS(ended), context.Canceled)
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.syncFS(t.Context()), ErrClosed)
}

// Design section 5: an error of the disk means that data is lost, others do not.
func TestFlushErrors(t *testing.T) {
	for _, errno := range []error{unix.EIO, unix.ENOSPC, unix.EDQUOT} {
		require.True(t, errdefs.IsDataLoss(syncError(errors.Wrap(errno, "wrapped"))), errno)
	}
	require.NoError(t, syncError(nil))
	require.ErrorIs(t, syncError(unix.EBADF), unix.EBADF)
	require.False(t, errdefs.IsDataLoss(syncError(unix.EBADF)))
}
