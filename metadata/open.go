package metadata

import (
	stderrors "errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// legacyName is the file that the first version of the format was kept in.
const legacyName = "metadata.db"

// NewStore opens the database at path, and makes it with mode 0600 if there is none. The file
// is locked until Close. Opening writes nothing but a new file, and verifies the structure of
// an old one, since bbolt does not survive a damaged page.
//
// What can be read of a damaged file is moved to a new one, unless WithoutSalvage is given. The
// damaged one is kept beside it, under its name with ".damaged-" and a number; Salvaged then
// tells what was saved, and the log says so. Without the option, where the platform cannot
// replace an open file (Windows), or if there is no room, it is ErrCorrupt.
//
// The errors are ErrDatabaseLocked at once if somebody has the file open, ErrNotDatabase,
// ErrCorrupt, ErrReadOnly and, where version-1 metadata lies beside a missing file,
// ErrLegacyMetadata. The file is untouched in all these cases.
func NewStore(path string, opts ...Option) (*Store, error) {
	if err := CheckLegacy(path); err != nil {
		return nil, err
	}
	f, report, err := openFile(path, newOptions(opts))
	if err != nil {
		return nil, errors.WithMessagef(err, "opening metadata database %s", path)
	}
	s := NewStoreWithDB(f, opts...)
	if s.salvaged = report; report != nil {
		log.L.WithError(report.Reason).WithField("path", report.Path).WithField("damaged", report.Damaged).
			WithField("records", report.Records).WithField("lost", len(report.Lost)).WithField("gaps", report.Gaps).
			Warn("metadata database was damaged: what can be read was moved to a new file")
	}
	return s, nil
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

// openFile opens a bolt database after it has verified it. If it had to salvage it first it
// returns a report.
func openFile(path string, o options) (*file, *SalvageReport, error) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return nil, nil, errors.Wrapf(ErrNotDatabase, "%s", fi.Mode().Type())
	}
	f := &file{}
	var fresh bool
	var report *SalvageReport
	err := translateOpen(f.lockAndVerify(path, &fresh))
	if errors.Is(err, ErrCorrupt) && canSalvage && !o.noSalvage {
		report, err = f.replace(path, err, o.salvage)
	}
	if err != nil {
		if f.os != nil {
			err = stderrors.Join(err, f.os.Close())
		}
		return nil, nil, err
	}
	if err := f.openBolt(path); err != nil {
		return nil, nil, err
	}
	if fresh {
		// A record must not be gone with the name of the file that it was synced to.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, nil, errors.WithStack(stderrors.Join(err, f.Close()))
		}
	}
	return f, report, nil
}

// lockAndVerify opens, locks and verifies the file, and tells whether it is a fresh one.
func (f *file) lockAndVerify(path string, fresh *bool) (err error) {
	if f.os, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	f.dirty, *fresh, err = verifyLocked(f.os)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	if errSame := sameFile(f.os, path); errSame != nil {
		return errSame
	}
	return err
}

// sameFile tells whether an open file that was locked still is what a path names. Whoever had
// the lock before may have put a new file in its place.
func sameFile(f *os.File, path string) error {
	opened, err := f.Stat()
	if err != nil {
		return errors.WithStack(err)
	}
	named, err := os.Stat(path)
	if err == nil && os.SameFile(opened, named) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.WithStack(err)
	}
	return errors.Wrap(ErrDatabaseLocked, "the file was replaced meanwhile")
}

// replace puts a salvaged file in the place of a damaged one. The lock of the damaged one is
// kept until that of the new one is held and has its name.
func (f *file) replace(path string, reason error, ops salvageOps) (*SalvageReport, error) {
	fresh, report, err := salvage(f.os, path, reason, ops)
	if err != nil {
		return nil, stderrors.Join(reason, errors.Wrap(translateOpen(err), "nothing was salvaged"))
	}
	damaged := f.os
	f.os, f.dirty = fresh, false
	return report, errors.WithStack(damaged.Close())
}

// openBolt opens the database in the file that is open already.
func (f *file) openBolt(path string) (err error) {
	done := false
	defer func() {
		if !done {
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
		OpenFile:       func(string, int, os.FileMode) (*os.File, error) { return f.os, nil },
	})
	if err != nil {
		return translateOpen(err)
	}
	done = true
	return nil
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
