package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil/loopfs"
	"github.com/layercache/cache/usage"
)

// fillUp writes a file until nothing more goes onto its filesystem.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	block := bytes.Repeat([]byte{1}, 4<<20)
	for size := len(block); size > 0; {
		n, err := f.Write(block[:size])
		if size < len(block) && err == nil {
			err = f.Sync()
		}
		if err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			if n == 0 || size < 4096 {
				size /= 4
			}
		}
	}
	require.NoError(t, f.Close())
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// layerOf makes a layer with a file of some bytes.
func layerOf(ctx context.Context, m cache.Manager, parent cache.ImmutableRef, name string, size int) (_ cache.ImmutableRef, err error) {
	mut, err := m.New(ctx, parent, nil, cache.CachePolicyRetain)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = mut.Release(ctx) // err is what counts
		}
	}()
	mounts, err := mut.Mount(ctx, false, nil)
	if err != nil {
		return nil, err
	}
	ms, release, err := mounts.Mount()
	if err != nil {
		return nil, err
	}
	err = mount.WithTempMount(ctx, ms, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), size/len(name)), 0o600)
	})
	if rerr := release(); err == nil {
		err = rerr
	}
	if err != nil {
		return nil, err
	}
	ref, err := mut.Commit(ctx)
	if err != nil {
		return nil, err
	}
	if err := ref.Finalize(ctx); err != nil {
		_ = ref.Release(ctx) // err is what counts
		return nil, err
	}
	return ref, nil
}

func openCacheAt(t *testing.T, dir string, opts Options) *Cache {
	t.Helper()
	c, err := Open(t.Context(), dir, opts)
	require.NoError(t, err)
	return c
}

// requireSound requires that the checker finds nothing.
func requireSound(t *testing.T, c *Cache) {
	t.Helper()
	checker, ok := c.Manager.(cache.Checker)
	require.True(t, ok)
	problems, err := checker.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Fault 21: on a disk without a free block layers fail with the system's error, nothing is lost, and a prune frees space, also in a process that
// has just opened the cache, also again.
func TestPruneOnFullDisk(t *testing.T) { // S-27
	for kind, size := range map[string]int64{loopfs.Ext4: 64 << 20, loopfs.XFS: 320 << 20, loopfs.Btrfs: 256 << 20} {
		t.Run(kind, func(t *testing.T) {
			forEachSnapshotter(t, func(t *testing.T, opts Options) {
				disk := loopfs.NewSized(t, kind, size)
				dir, filler := filepath.Join(disk, "cache"), filepath.Join(disk, "filler")
				var held string
				for round := range 2 {
					c := openCacheAt(t, dir, opts)
					ctx := t.Context()
					if round == 0 {
						ref, err := layerOf(ctx, c.Manager, nil, "held", 4096)
						require.NoError(t, err)
						held = ref.ID()
						require.NoError(t, ref.Release(ctx))
					}
					base, err := c.Manager.Get(ctx, held, nil)
					require.NoError(t, err)
					const layers, each = 30, 256 << 10
					for i := range layers {
						ref, err := layerOf(ctx, c.Manager, nil, fmt.Sprint("file", i), each)
						require.NoError(t, err)
						require.NoError(t, ref.Release(ctx))
					}
					if round > 0 {
						require.NoError(t, base.Release(ctx))
						require.NoError(t, c.Close())
						fillUp(t, filler)
						c = openCacheAt(t, dir, opts)
						base, err = c.Manager.Get(ctx, held, nil)
						require.NoError(t, err)
					} else {
						fillUp(t, filler)
					}
					require.Less(t, freeBytes(t, disk), int64(64<<10))

					_, err = layerOf(ctx, c.Manager, base, "more", each)
					require.ErrorIs(t, err, unix.ENOSPC)
					infos, err := c.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
					require.NoError(t, err)
					require.Len(t, infos, layers+1)
					require.NoError(t, c.Manager.Prune(ctx, nil, usage.PruneInfo{All: true}))
					infos, err = c.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
					require.NoError(t, err)
					require.Len(t, infos, 1)
					require.Eventually(t, func() bool { // some filesystems count what is free after a while
						unix.Sync()
						return freeBytes(t, disk) > layers*each/2
					}, time.Minute, 10*time.Millisecond)
					require.FileExists(t, filepath.Join(dir, reserveFile))

					more, err := layerOf(ctx, c.Manager, base, "more", each)
					require.NoError(t, err)
					require.NoError(t, more.Release(ctx))
					require.NoError(t, c.Manager.Prune(ctx, nil, usage.PruneInfo{All: true}))
					require.NoError(t, base.Release(ctx))
					requireSound(t, c)
					require.NoError(t, c.Close())
					require.NoError(t, os.Remove(filler))
				}
				requireNoMounts(t, dir)
			})
		})
	}
}

// manyRecords writes the rows and leases of finalized records into a directory, as if their layers were empty. Few rows share a page, and those that
// are used one after the other do not, so that deleting them writes as much as it can.
func manyRecords(t *testing.T, dir string, opts Options, n int) {
	t.Helper()
	p, err := OpenParts(t.Context(), dir, opts)
	require.NoError(t, err)
	_, err = p.MetadataStore.StoreID() // which every store has, before its first record
	require.NoError(t, err)
	id := func(i int) string { return fmt.Sprintf("record%05d", i) }
	require.NoError(t, p.Transactions.Update(t.Context(), func(ctx context.Context) error {
		for i := range n {
			if _, err := p.LeaseManager.Create(ctx, leases.WithID(id(i))); err != nil {
				return err
			}
			snapshot := leases.Resource{ID: id(i), Type: "snapshots/" + p.SnapshotterName}
			if err := p.LeaseManager.AddResource(ctx, leases.Lease{ID: id(i)}, snapshot); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, p.MetadataStore.Write(func(w *metadata.Writer) error {
		for i := range n {
			row, err := w.Create(id(i))
			if err != nil {
				return err
			}
			for key, value := range map[string]any{
				"cache.createdAt": 1 + i, "cache.lastUsedAt": 1 + i*7919%n, "cache.usageCount": 1, "cache.snapshot": id(i),
				"snapshot.committed": true, "snapshot.size": 4096, "cache.cachePolicy": 1, "cache.description": strings.Repeat("d", 500),
			} {
				if err := row.Set(key, value, ""); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	require.NoError(t, p.Close())
}

// Fault 21: the reserve is enough for batches of 512 on a filesystem that never writes in place: a transaction of a prune in full swing marks
// the rows of one and removes those of another.
func TestPruneOfBatchesOnFullDisk(t *testing.T) { // S-27
	const records = 3*512 + 64
	for name, policy := range map[string]usage.PruneInfo{"plain": {All: true}, "budget": {All: true, MaxUsedSpace: 1}} {
		t.Run(name, func(t *testing.T) {
			disk := loopfs.NewSized(t, loopfs.Btrfs, 256<<20)
			dir, opts := filepath.Join(disk, "cache"), Options{Snapshotter: Native, NoBackgroundGC: true}
			manyRecords(t, dir, opts, records)
			fillUp(t, filepath.Join(disk, "filler"))
			c := openCacheAt(t, dir, opts)
			defer func() { require.NoError(t, c.Close()) }()
			require.Equal(t, records, c.Stats().Records)
			require.Less(t, freeBytes(t, disk), int64(64<<10))
			require.FileExists(t, filepath.Join(dir, reserveFile))

			require.NoError(t, c.Prune(t.Context(), nil, policy))
			require.Zero(t, c.Stats().Records)
			requireSound(t, c)
			require.NoError(t, c.Close())
			c = openCacheAt(t, dir, opts)
			require.Zero(t, c.Stats().Records)
			left, err := c.Parts.LeaseManager.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}
