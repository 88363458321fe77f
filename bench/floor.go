package main

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// What the disk alone costs says how far a ratio can go at all: the same number of synced writes as
// the databases make, and the directories of a new snapshot, with no cache around them.
const (
	floorFiles = 3 // as many as there are databases
	floorPages = 5 // written by a transaction before its first sync; one page comes before its second
	floorSize  = 1 << 20
	floorPage  = 4096
)

// diskFloor writes as one New, Commit, Finalize and Release does.
type diskFloor struct {
	dir   string
	files []*os.File
	page  []byte
}

func newDiskFloor(dir string) (_ *diskFloor, err error) {
	f := &diskFloor{dir: dir, page: make([]byte, floorPage)}
	defer func() {
		if err != nil {
			err = stderrors.Join(err, f.close())
		}
	}()
	for i := range floorFiles {
		file, err := os.Create(filepath.Join(dir, "db"+strconv.Itoa(i)))
		if err != nil {
			return nil, errors.WithStack(err)
		}
		f.files = append(f.files, file)
		// Blocks that exist already are overwritten, as in a database that has stopped growing.
		if _, err := file.Write(make([]byte, floorSize)); err != nil {
			return nil, errors.WithStack(err)
		}
		if err := file.Sync(); err != nil {
			return nil, errors.WithStack(err)
		}
	}
	return f, nil
}

func (f *diskFloor) close() error {
	var errs []error
	for _, file := range f.files {
		errs = append(errs, file.Close())
	}
	return stderrors.Join(errs...)
}

// op returns an operation with so many fdatasync calls, two per transaction.
func (f *diskFloor) op(syncs int) func(context.Context, int) error {
	return func(_ context.Context, i int) error {
		if err := f.snapshotDir(i); err != nil {
			return err
		}
		for s := range syncs {
			file, pages := f.files[s/2%floorFiles], 1
			if s%2 == 0 {
				pages = floorPages
			}
			for p := range pages {
				if _, err := file.WriteAt(f.page, int64((i+s+p)*2*floorPage%floorSize)); err != nil {
					return errors.WithStack(err)
				}
			}
			if err := unix.Fdatasync(int(file.Fd())); err != nil {
				return errors.Wrap(err, "fdatasync")
			}
		}
		return nil
	}
}

// snapshotDir makes directories as the overlayfs snapshotter does.
func (f *diskFloor) snapshotDir(i int) error {
	dir, err := os.MkdirTemp(f.dir, "new-")
	if err != nil {
		return errors.WithStack(err)
	}
	for _, sub := range []string{"fs", "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return errors.WithStack(err)
		}
	}
	return errors.WithStack(os.Rename(dir, dir+"-"+strconv.Itoa(i)))
}

// floorLine measures the disk with the numbers of syncs that the two sides were seen to make.
func floorLine(ctx context.Context, e *env, work string, peerSyncs, oursSyncs float64) (l line, err error) {
	dir, err := os.MkdirTemp(e.dir, "floor-")
	if err != nil {
		return line{}, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	f, err := newDiskFloor(dir)
	if err != nil {
		return line{}, err
	}
	defer func() { err = stderrors.Join(err, f.close()) }()
	l = line{Work: work, Unit: unitTime, Target: "for comparison"}
	e.logf("  the disk alone")
	n := e.scale(100, 5)
	l.Peer, l.Ours, err = e.alternate(ctx, unitTime, timed(n, 1, f.op(int(peerSyncs))), timed(n, 1, f.op(int(oursSyncs))))
	return l, err
}
