package apply

import (
	"context"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// disk is a filesystem that is going to be written to. It is opened before, since the kernel reports what it failed to write
// to those who had the filesystem open.
type disk struct {
	id  any // the same for all on one filesystem
	dir *os.File
	// syncfs is the system call, if no test has put something in its place.
	syncfs func(*os.File) error
}

func openDisk(path string) (*disk, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Wrap(err, "opening the filesystem to sync")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		_ = dir.Close() // nothing was done with it
		return nil, errors.Wrap(err, "opening the filesystem to sync")
	}
	return &disk{id: uint64(st.Dev), dir: dir, syncfs: syncfs}, nil
}

func syncfs(f *os.File) error { return unix.Syncfs(int(f.Fd())) }

// sync writes everything of the filesystem. The system cannot be told to stop. An error of the disk, after which the kernel has
// given up what it could not write, is errdefs' "data loss".
func (d *disk) sync(context.Context) error {
	err := d.syncfs(d.dir)
	for _, lost := range []syscall.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, lost) {
			return categorized(errdefs.ErrDataLoss, err)
		}
	}
	return errors.WithStack(err)
}

func (d *disk) close() { _ = d.dir.Close() } // opened for reading: nothing can get lost
