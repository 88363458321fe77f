package local

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// survey is what is known about a directory before anything in it is changed.
type survey struct {
	// snapshotters are the names under which it has snapshots or leases on snapshots, sorted.
	snapshotters []string
}

// surveyDir looks at an existing directory without writing to it. Whatever would make opening it
// fail half-way should be found here.
func surveyDir(dir string) (survey, error) {
	if err := checkWritable(dir, true); err != nil {
		return survey{}, err
	}
	for _, name := range []string{backendDB, recordsDB, filepath.Join(snapshotsDir, snapshotterDB)} {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		switch {
		case os.IsNotExist(err):
			continue
		case err != nil:
			return survey{}, errors.WithStack(err)
		case !st.Mode().IsRegular():
			return survey{}, errors.Wrapf(ErrForeign, "%s is not a regular file", path)
		}
		if err := checkWritable(path, false); err != nil {
			return survey{}, err
		}
	}
	names, err := snapshottersOf(filepath.Join(dir, backendDB))
	return survey{snapshotters: names}, err
}

// snapshottersOf reads the snapshotters' names from containerd's metadata at path. No file, and
// the empty one that is left if its making was interrupted, hold none.
func snapshottersOf(path string) (names []string, err error) {
	err = readDB(path, func(tx *bolt.Tx) error {
		top := tx.Bucket([]byte(backendTopLevel))
		if top == nil {
			if k, _ := tx.Cursor().First(); k != nil {
				return errors.Wrapf(ErrForeign, "%s is a bolt database, but not containerd's", path)
			}
			return nil
		}
		names = namesInSnapshots(top)
		if len(names) == 0 {
			names = nameInLeases(top)
		}
		return nil
	})
	return names, err
}

// readDB calls fn with the database at path, which is not written to. It does not call it if there is no file, or an empty one.
func readDB(path string, fn func(tx *bolt.Tx) error) (err error) {
	st, err := os.Stat(path)
	if os.IsNotExist(err) || err == nil && st.Size() == 0 {
		return nil
	} else if err != nil {
		return errors.WithStack(err)
	}
	defer recoverDamage(path, &err)
	var file *os.File
	db, err := bolt.Open(path, databaseMode, &bolt.Options{ReadOnly: true, Timeout: lockWait, OpenFile: func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
		file, err = os.OpenFile(path, flag, mode)
		return file, err
	}})
	if err != nil {
		return errors.Wrapf(err, "open %s for reading", path)
	}
	defer func() {
		unlock(file) // bolt does so only with what it opened for writing
		if cerr := db.Close(); cerr != nil && err == nil {
			err = errors.WithStack(cerr)
		}
	}()
	return db.View(func(tx *bolt.Tx) error {
		// A file cut short would be mapped as it is, and touching what is missing kills the process.
		if st.Size() < tx.Size() {
			return errors.Wrapf(ErrForeign, "%s has %d of %d bytes", path, st.Size(), tx.Size())
		}
		return fn(tx)
	})
}

// namesInSnapshots returns the snapshotters that have at least one snapshot in any namespace.
func namesInSnapshots(top *bolt.Bucket) []string {
	var names []string
	forEachBucket(top, func(_ []byte, ns *bolt.Bucket) bool {
		forEachBucket(ns.Bucket([]byte("snapshots")), func(name []byte, snapshots *bolt.Bucket) bool {
			if k, _ := snapshots.Cursor().First(); k != nil {
				names = append(names, string(name))
			}
			return true
		})
		return true
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// nameInLeases returns the first snapshotter that a lease of any namespace refers to. Without
// snapshots such a lease belongs to a layer that was not extracted yet; with another snapshotter
// it would not protect what is extracted then.
func nameInLeases(top *bolt.Bucket) []string {
	var names []string
	forEachBucket(top, func(_ []byte, ns *bolt.Bucket) bool {
		forEachBucket(ns.Bucket([]byte("leases")), func(_ []byte, lease *bolt.Bucket) bool {
			forEachBucket(lease.Bucket([]byte("snapshots")), func(name []byte, _ *bolt.Bucket) bool {
				names = append(names, string(name))
				return false
			})
			return len(names) == 0
		})
		return len(names) == 0
	})
	return names
}

// backendBucket returns a bucket of containerd's metadata, nil if it is not there.
func backendBucket(tx *bolt.Tx, keys ...string) *bolt.Bucket {
	b := tx.Bucket([]byte(backendTopLevel))
	for _, key := range keys {
		if b == nil {
			return nil
		}
		b = b.Bucket([]byte(key))
	}
	return b
}

// forEachBucket calls fn for the buckets in parent, which may be nil, until it returns false.
func forEachBucket(parent *bolt.Bucket, fn func(name []byte, b *bolt.Bucket) bool) {
	if parent == nil {
		return
	}
	c := parent.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if v == nil && !fn(k, parent.Bucket(k)) {
			return
		}
	}
}
