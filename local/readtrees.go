package local

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// readTrees is any of containerd's snapshotters, open for looking: its database is a copy, its directories are those of the cache. It
// needs no privileges, and works where the snapshotter itself would not.
type readTrees struct {
	name string
	// dir holds a directory for each snapshot, named by its number.
	dir   string
	store *storage.MetaStore
}

// openReadTrees opens the snapshotter called name, whose data is below root, by the copy of its database at path.
func openReadTrees(name, root, path string) (*readTrees, error) {
	if err := readDB(path, func(*bolt.Tx) error { return nil }); err != nil { // the store would not survive what this finds
		return nil, err
	}
	store, err := storage.NewMetaStore(path)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	return &readTrees{name: name, dir: filepath.Join(root, "snapshots"), store: store}, nil
}

func (s *readTrees) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Usage is what the snapshotters say: that of an active snapshot they measure, any other they remember.
func (s *readTrees) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var info snapshots.Info
	var id string
	err = s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, err
	}
	du, err := fs.DiskUsage(ctx, s.treeOf(id))
	return snapshots.Usage(du), errors.Wrapf(err, "measure snapshot %q", key)
}

// treeOf returns the directory with the files of the snapshot with a number. Native has them in the snapshot's directory itself,
// all that work on overlays have them one below.
func (s *readTrees) treeOf(id string) string {
	dir := filepath.Join(s.dir, id)
	if s.name == Native {
		return dir
	}
	if upper := filepath.Join(dir, "fs"); isDir(upper) {
		return upper
	}
	return dir
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

func (s *readTrees) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, filters...)
	})
	if errdefs.IsNotFound(err) {
		return nil // there never was a snapshot
	}
	return err
}

// numbers maps the names of the snapshots' directories to keys.
func (s *readTrees) numbers(ctx context.Context) (ids map[string]string, err error) {
	err = s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		ids, err = storage.IDMap(ctx)
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return ids, err
}

// uncommit implements reverser, on the copy.
func (s *readTrees) uncommit(ctx context.Context, name, key string) error {
	return uncommit(ctx, s.store, name, key)
}

func (s *readTrees) Close() error { return errors.WithStack(s.store.Close()) }

func (s *readTrees) Mounts(context.Context, string) ([]mount.Mount, error) {
	return nil, lookOnly("mounting a snapshot")
}

func (s *readTrees) Prepare(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error) {
	return nil, lookOnly("making a snapshot")
}

func (s *readTrees) View(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error) {
	return nil, lookOnly("making a view")
}

func (s *readTrees) Commit(context.Context, string, string, ...snapshots.Opt) error {
	return lookOnly("committing a snapshot")
}

func (s *readTrees) Update(context.Context, snapshots.Info, ...string) (snapshots.Info, error) {
	return snapshots.Info{}, lookOnly("labelling a snapshot")
}

func (s *readTrees) Remove(context.Context, string) error { return lookOnly("removing a snapshot") }
