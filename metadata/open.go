package metadata

import (
	stderrors "errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// legacyName is the file that the first version of the format was kept in.
const legacyName = "metadata.db"

// NewStore opens the database at path, and makes it with mode 0600 if there is none. The file
// is locked until Close. Opening writes nothing but a new file, and verifies the structure of
// an old one, since bbolt does not survive a damaged page.
//
// The errors are ErrDatabaseLocked at once if somebody has the file open, ErrNotDatabase,
// ErrCorrupt, ErrReadOnly and, where version-1 metadata lies beside a missing file,
// ErrLegacyMetadata. The file is untouched in all these cases.
func NewStore(path string, opts ...Option) (*Store, error) {
	if err := CheckLegacy(path); err != nil {
		return nil, err
	}
	f, err := openFile(path)
	if err != nil {
		return nil, errors.WithMessagef(err, "opening metadata database %s", path)
	}
	return NewStoreWithDB(f, opts...), nil
}

// CheckLegacy returns ErrLegacyMetadata if there is no database at path but one of the first
// version of the format in the same directory, which would be forgotten by making a new one.
func CheckLegacy(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return nil // what else is wrong with it shows when it is opened
	}
	legacy := filepath.Join(filepath.Dir(path), legacyName)
	if legacy == filepath.Clean(path) {
		return nil
	}
	if _, err := os.Stat(legacy); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Wrapf(ErrLegacyMetadata,
		"found %s without %s: let BuildKit v0.27.1 or older migrate it, or remove the old cache", legacy, filepath.Base(path))
}

// file is a bolt database that writes its free list once, when it is closed. Without a free
// list on disk each commit is cheaper, with one the next open need not search for free pages.
type file struct {
	os *os.File // bbolt's descriptor, which holds the lock

	mu    sync.Mutex // serialises writers, so that Close changes no option under one
	bolt  *bolt.DB
	dirty bool        // the file has no free list that is up to date
	asIs  atomic.Bool // damaged: Close must not write
	stuck bool        // bbolt panicked and may hold its locks for ever
}

// openFile opens a bolt database after it has verified it.
func openFile(path string) (_ *file, err error) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return nil, errors.Wrapf(ErrNotDatabase, "%s", fi.Mode().Type())
	}
	f := &file{}
	done, fresh := false, false
	defer func() {
		if !done && f.os != nil {
			// bbolt closes what it could not open, but not when it panics.
			_ = f.os.Close()
		}
		if !done && panicOfDamage() {
			err = errors.Wrapf(ErrCorrupt, "%v", recover())
		}
	}()
	f.bolt, err = bolt.Open(path, 0o600, &bolt.Options{
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
		Timeout:        time.Nanosecond, // one attempt
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			if f.os, err = os.OpenFile(name, flag, mode); err != nil {
				return nil, err
			}
			f.dirty, fresh, err = verifyLocked(f.os)
			return f.os, err
		},
	})
	if err != nil {
		return nil, translateOpen(err)
	}
	done = true
	if fresh {
		// A record must not be gone with the name of the file that it was synced to.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.WithStack(stderrors.Join(err, f.Close()))
		}
	}
	return f, nil
}

// verifyLocked verifies a file under the lock that bbolt takes next, since a file that another
// process writes to may look damaged. It tells whether the file lacks a free list, and whether
// it is a fresh one, which bbolt lays out with a free list.
func verifyLocked(f *os.File) (lacksFreelist, fresh bool, err error) {
	if err := lockFile(f); err != nil {
		return false, false, err
	}
	fi, err := f.Stat()
	if err != nil {
		return false, false, errors.WithStack(err)
	}
	if fi.Size() == 0 {
		return false, true, nil
	}
	lacksFreelist, err = verify(f, fi.Size())
	return lacksFreelist, false, err
}

// View implements Transactor.
func (f *file) View(fn func(*bolt.Tx) error) error { return f.bolt.View(fn) }

// Update implements Transactor.
func (f *file) Update(fn func(*bolt.Tx) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stuck = true // until it returns
	err := f.bolt.Update(fn)
	f.stuck = false
	f.dirty = f.dirty || err == nil
	return err
}

// Close implements io.Closer.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stuck {
		return errors.WithStack(f.os.Close())
	}
	var err error
	if f.dirty && !f.asIs.Load() {
		f.bolt.NoFreelistSync = false
		err = errors.Wrap(f.bolt.Update(func(*bolt.Tx) error { return nil }), "writing the free list")
	}
	return stderrors.Join(err, errors.WithStack(f.bolt.Close()))
}
