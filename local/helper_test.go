package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
)

// forEachSnapshotter runs a test on every snapshotter that works for this process.
func forEachSnapshotter(t *testing.T, fn func(t *testing.T, opts Options)) {
	t.Run(Native, func(t *testing.T) { fn(t, Options{Snapshotter: Native}) })
	t.Run(Overlayfs, func(t *testing.T) {
		needOverlayfs(t)
		fn(t, Options{Snapshotter: Overlayfs})
	})
}

func needOverlayfs(t *testing.T) {
	t.Helper()
	if !canMount() {
		t.Skip("needs root: overlayfs has to be mounted")
	}
	if err := probeOverlayfs(t.TempDir()); err != nil {
		t.Skipf("overlayfs does not work below the directory for temporary files: %v", err)
	}
}

// openParts opens dir and closes it at the end of the test, after which nothing may be mounted below it.
func openParts(t *testing.T, dir string, opts Options) *Parts {
	t.Helper()
	p, err := OpenParts(t.Context(), dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		requireNoMounts(t, dir)
	})
	return p
}

func openCache(t *testing.T, dir string, opts Options) *Cache {
	t.Helper()
	c, err := Open(t.Context(), dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		requireNoMounts(t, dir)
	})
	return c
}

func requireNoMounts(t *testing.T, dir string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	require.NoError(t, err)
	require.Empty(t, mounts)
}

// hashDir hashes names, modes, modification times and contents of everything below dir.
func hashDir(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, info.Mode(), info.ModTime().UnixNano())
		if !info.Mode().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		h.Write(data)
		return err
	}))
	return hex.EncodeToString(h.Sum(nil))
}

// newLayer makes a committed snapshot with one file, protected by a lease of the same name.
func newLayer(t *testing.T, p *Parts, name, parent string) {
	t.Helper()
	require.NoError(t, addLease(t.Context(), p, name, name))
	require.NoError(t, p.LeaseManager.AddResource(t.Context(), leases.Lease{ID: name}, snapshotResource(p, name+"-active")))
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), name+"-active", parent))
	writeFile(t, p, name+"-active", name)
	require.NoError(t, p.Snapshotter.Commit(t.Context(), name, name+"-active"))
}

// addLease makes a lease that protects a snapshot as the manager's do.
func addLease(ctx context.Context, p *Parts, id, snapshotID string) error {
	if _, err := p.LeaseManager.Create(ctx, leases.WithID(id), leases.WithLabels(map[string]string{"containerd.io/gc.flat": "x"})); err != nil {
		return err
	}
	return p.LeaseManager.AddResource(ctx, leases.Lease{ID: id}, snapshotResource(p, snapshotID))
}

func snapshotResource(p *Parts, id string) leases.Resource {
	return leases.Resource{ID: id, Type: "snapshots/" + p.SnapshotterName}
}

// upperDir is where the active snapshot key takes files, without mounting anything.
func upperDir(t *testing.T, p *Parts, key string) string {
	t.Helper()
	m, err := p.Snapshotter.Mounts(t.Context(), key)
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	defer func() { require.NoError(t, release()) }()
	require.Len(t, mounts, 1)
	return writableDir(t, mounts[0])
}

func writableDir(t *testing.T, m mount.Mount) string {
	t.Helper()
	if m.Type != "overlay" {
		return m.Source
	}
	for _, o := range m.Options {
		if len(o) > 9 && o[:9] == "upperdir=" {
			return o[9:]
		}
	}
	t.Fatalf("mount %v is not writable", m)
	return ""
}

func writeFile(t *testing.T, p *Parts, key, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(upperDir(t, p, key), name), []byte(name), 0o644))
}

// layerFiles mounts the committed snapshot name and lists its files.
func layerFiles(t *testing.T, p *Parts, name string) (files []string) {
	t.Helper()
	view := name + "-look"
	require.NoError(t, addLease(t.Context(), p, view, view))
	m, err := p.Snapshotter.View(t.Context(), view, name)
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	dir := mounts[0].Source
	if canMount() {
		lm := snapshot.LocalMounterWithMounts(mounts)
		dir, err = lm.Mount()
		require.NoError(t, err)
		defer func() { require.NoError(t, lm.Unmount()) }()
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		files = append(files, e.Name())
	}
	require.NoError(t, release())
	require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: view}))
	return files
}

// makeBolt makes a bolt database with the given top-level bucket.
func makeBolt(t *testing.T, path, bucket string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte(bucket))
		return err
	}))
	require.NoError(t, db.Close())
}

// addSnapshotterBucket puts a snapshot of another snapshotter into containerd's metadata.
func addSnapshotterBucket(t *testing.T, dir, name string) {
	t.Helper()
	db, err := openBackendDB(filepath.Join(dir, backendDB))
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(backendTopLevel))
		for _, key := range []string{namespace, "snapshots", name, "a-snapshot"} {
			if b, err = b.CreateBucketIfNotExists([]byte(key)); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
}

// blocking is the native snapshotter, whose removals wait.
type blocking struct {
	snapshots.Snapshotter
	removing, proceed chan struct{}
}

func newBlocking(t *testing.T) *blocking {
	t.Helper()
	return &blocking{removing: make(chan struct{}, 1), proceed: make(chan struct{})}
}

func (b *blocking) open(root string) (snapshots.Snapshotter, error) {
	s, err := native.NewSnapshotter(root)
	b.Snapshotter = s
	return b, err
}

func (b *blocking) Remove(ctx context.Context, key string) error {
	b.removing <- struct{}{}
	<-b.proceed
	return b.Snapshotter.Remove(ctx, key)
}
