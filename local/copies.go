package local

import (
	"context"
	stderrors "errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/metadata"
)

// lookOnly is the error of a call that would change something.
func lookOnly(what string) error { return errors.Wrap(ErrInspection, what) }

// openCopies opens the parts of a directory for looking: copies of its databases, over wrappers that refuse to write.
func openCopies(ctx context.Context, dir string, opts InspectOptions) (_ *Parts, err error) {
	p := &Parts{Dir: dir, reserve: newReserve(dir, 0), opts: Options{PruneRefChecker: opts.PruneRefChecker, Now: opts.Now}}
	defer func() {
		if err != nil {
			err = readable(stderrors.Join(err, p.Close()))
		}
	}()
	lock, err := lockDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Wrap(ErrNoCache, err.Error())
	}
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, lock.Close)
	copies, err := os.MkdirTemp(opts.TempDir, "layercache-inspect-")
	if err != nil {
		return nil, errors.Wrap(err, "a directory for copies of the databases")
	}
	p.closers = append(p.closers, func() error { return errors.WithStack(os.RemoveAll(copies)) })
	if err := p.copyDatabases(copies); err != nil {
		return nil, err
	}
	p.MountPoolRoot = filepath.Join(copies, mountPoolDir)
	if err := p.openRecords(copies, opts); err != nil {
		return nil, err
	}
	name, err := inspected(filepath.Join(copies, backendDB), opts.Snapshotter)
	if err != nil {
		return nil, err
	}
	return p, p.openBackendCopy(ctx, copies, name)
}

// copyDatabases copies what there is of the databases, and keeps others from writing to them.
func (p *Parts) copyDatabases(copies string) error {
	for _, path := range databases(p.Dir) {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return errors.WithStack(err)
		}
		if !st.Mode().IsRegular() {
			return errors.Wrapf(ErrForeign, "%s is not a regular file", path)
		}
		f, err := lockFile(path)
		if err != nil {
			return err
		}
		p.closers = append(p.closers, func() error {
			unlock(f)
			return errors.WithStack(f.Close())
		})
		if err := copyFile(f, filepath.Join(copies, copyName(path))); err != nil {
			return errors.Wrapf(err, "copy %s", path)
		}
	}
	return nil
}

// databases are the paths of a directory's databases.
func databases(dir string) []string {
	return []string{filepath.Join(dir, recordsDB), filepath.Join(dir, backendDB), filepath.Join(dir, snapshotsDir, snapshotterDB)}
}

// copyName is the name of a database's copy; that of the snapshotter's must not look like metadata of BuildKit's first version.
func copyName(path string) string {
	if name := filepath.Base(path); name != snapshotterDB {
		return name
	}
	return snapshotsDir + ".db"
}

func copyFile(from *os.File, to string) (err error) {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, databaseMode)
	if err != nil {
		return errors.WithStack(err)
	}
	_, err = io.Copy(f, from)
	return errors.WithStack(stderrors.Join(err, f.Close()))
}

// exists tells whether there is a cache in a directory. One of BuildKit's first version is an error of its own.
func exists(dir string) error {
	path := filepath.Join(dir, recordsDB)
	if err := metadata.CheckLegacy(path); err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return errors.Wrap(ErrNoCache, err.Error())
	} else if err != nil {
		return errors.WithStack(err)
	}
	return nil
}

// openRecords opens the copy of the records, and salvages it if it is damaged.
func (p *Parts) openRecords(copies string, opts InspectOptions) (err error) {
	path := filepath.Join(p.Dir, recordsDB)
	if err := exists(p.Dir); err != nil {
		return err
	}
	var mopts []metadata.Option
	if opts.NoSalvage {
		mopts = append(mopts, metadata.WithoutSalvage())
	}
	if p.MetadataStore, err = metadata.NewStore(filepath.Join(copies, recordsDB), mopts...); err != nil {
		return err
	}
	p.closers = append(p.closers, p.MetadataStore.Close)
	if p.Salvaged = p.MetadataStore.Salvaged(); p.Salvaged != nil {
		p.Salvaged.Path, p.Salvaged.Damaged = path, path
	}
	return nil
}

// inspected decides whose snapshots are looked at. A directory that never had any may be anybody's.
func inspected(backend, wanted string) (string, error) {
	have, err := snapshottersOf(backend)
	switch {
	case err != nil:
		return "", err
	case len(have) == 0 && wanted == "":
		return Native, nil
	case len(have) == 0:
		return wanted, nil
	case wanted == "" && len(have) > 1:
		return "", errors.Wrapf(ErrSnapshotter, "the directory has snapshots of %s, one must be chosen", strings.Join(have, " and "))
	case wanted == "":
		return have[0], nil
	}
	for _, name := range have {
		if name == wanted {
			return name, nil
		}
	}
	return "", errors.Wrapf(ErrSnapshotter, "%q was asked for, but the directory was made with %s", wanted, strings.Join(have, " and "))
}

func (p *Parts) openBackendCopy(ctx context.Context, copies, name string) error {
	raw, err := openBackendDB(filepath.Join(copies, backendDB))
	if err != nil {
		return err
	}
	raw.NoSync = true // who loses it makes another copy
	p.raw = raw
	p.closers = append(p.closers, raw.Close)
	books := filepath.Join(copies, copyName(snapshotterDB))
	if _, err := os.Stat(books); errors.Is(err, fs.ErrNotExist) {
		if err := p.requireNoSnapshots(name); err != nil {
			return err
		}
	}
	trees, err := openReadTrees(name, filepath.Join(p.Dir, snapshotsDir), books)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, trees.Close)
	p.reading = &reading{trees: trees, blobs: readBlobs{root: filepath.Join(p.Dir, contentDir)}}
	sn := backend{name: name, reason: "the directory was made with it", quick: name == Overlayfs}
	if !sn.quick {
		return p.wire(ctx, sn, p.reading.blobs, trees)
	}
	p.guard = newGuard(name, trees, raw)
	p.guard.reverser = trees
	return p.wire(ctx, sn, p.reading.blobs, p.guard)
}

// requireNoSnapshots sees to it that a snapshotter without a database has none, rather than one elsewhere: all snapshots would look lost.
func (p *Parts) requireNoSnapshots(name string) error {
	return p.raw.View(func(tx *bolt.Tx) (err error) {
		forEachBucket(backendBucket(tx, namespace, "snapshots", name), func([]byte, *bolt.Bucket) bool {
			err = errors.Wrapf(ErrSnapshotter, "%s has no database in %s that could be looked at", name, filepath.Join(p.Dir, snapshotsDir))
			return false
		})
		return err
	})
}

// reading is what lies below containerd's metadata during an inspection.
type reading struct {
	trees *readTrees
	blobs readBlobs
}

// readable puts the category of what may not be read over the system's error, and the types of the package over the others.
func readable(err error) error {
	if errors.Is(err, fs.ErrPermission) && !errdefs.IsPermissionDenied(err) {
		return &causedError{kind: errUnreadable, cause: err}
	}
	return typed(err)
}

var errUnreadable error = &kindError{"cache directory cannot be read", errdefs.ErrPermissionDenied}
