package local

import (
	"context"
	stderrors "errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/log"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// clearHalfMade takes away the snapshot directory that one of containerd's snapshotters was making when its process
// died. They number directories by a sequence in their database, and put a new one in its place before they
// commit. A kill in between takes the number back, but leaves the directory. The next
// snapshot gets the same number, and its making fails with "file exists"; or, where removal is asynchronous, a collection that found the
// old directory deletes what is in the new one.
//
// Before that they make it under a name that begins with "new-", which nothing but a kill leaves, with a whole copy of the parent in
// it perhaps. Not all of them clean that up.
//
// As they write one at a time, there is at most one such directory, and it has the number after the last. root is the
// snapshotter's, and it must not be open.
func clearHalfMade(ctx context.Context, root string) error {
	var next uint64
	err := readDB(filepath.Join(root, snapshotterDB), func(tx *bolt.Tx) error {
		if top := tx.Bucket([]byte("v1")); top != nil {
			if rows := top.Bucket([]byte("snapshots")); rows != nil {
				next = rows.Sequence() + 1
			}
		}
		return nil
	})
	if err != nil {
		return errors.Wrap(err, "look for a half-made snapshot")
	}
	if next == 0 {
		next = 1 // nothing was ever committed
	}
	trees := filepath.Join(root, "snapshots")
	if err := removeUnnamed(ctx, trees); err != nil {
		return err
	}
	left := filepath.Join(trees, strconv.FormatUint(next, 10))
	if _, err := os.Lstat(left); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return errors.WithStack(err)
	}
	log.G(ctx).WithField("path", left).Info("layer cache: removing a snapshot that was being made when its process died")
	// Out of the way in any case; without privileges not all that is in it need be removable.
	aside, err := os.MkdirTemp(trees, "new-")
	if err == nil {
		err = os.Remove(aside) // for its name
	}
	if err != nil {
		return errors.WithStack(err)
	}
	if err := os.Rename(left, aside); err != nil {
		return errors.Wrap(err, "move a half-made snapshot out of the way")
	}
	if err := os.RemoveAll(aside); err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: a half-made snapshot is left")
	}
	return nil
}

// removeUnnamed removes the directories that have no number yet. One that cannot be removed costs its space, and nothing else.
func removeUnnamed(ctx context.Context, trees string) error {
	unnamed, err := unnamedIn(trees)
	if err != nil {
		return errors.Wrap(err, "look for a half-made snapshot")
	}
	for _, name := range unnamed {
		path := filepath.Join(trees, name)
		if err := os.RemoveAll(path); err != nil {
			log.G(ctx).WithError(err).WithField("path", path).Warn("layer cache: a half-made snapshot is left")
		}
	}
	return nil
}

// unnamedIn lists the directories that have no number yet. There may be a million others, which are neither kept nor sorted.
func unnamedIn(trees string) (unnamed []string, err error) {
	const atOnce = 1024
	dir, err := os.Open(trees)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, dir.Close()) }()
	for {
		names, err := dir.Readdirnames(atOnce)
		for _, name := range names {
			if strings.HasPrefix(name, "new-") {
				unnamed = append(unnamed, name)
			}
		}
		if errors.Is(err, io.EOF) {
			return unnamed, nil
		}
		if err != nil {
			return nil, errors.WithStack(err)
		}
	}
}
