package cache

import (
	"hash/fnv"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
)

func systemPool() poolSystem {
	return poolSystem{
		mayMount: snapshot.MayMount,
		mount:    mount.All,
		unmount:  unmountDir,
		mounted:  mountinfo.Mounted,
	}
}

func unmountDir(dir string, detach bool) error {
	if !detach {
		// containerd's tries again for a while if it is busy: a child process has all files open between fork and exec.
		return errors.Wrapf(mount.Unmount(dir, unix.UMOUNT_NOFOLLOW), "unmounting %s", dir)
	}
	for { // mounts may be stacked
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // not mounted (any more)
		case err != nil && !errors.Is(err, unix.EINTR):
			return errors.Wrapf(err, "unmounting %s", dir)
		}
	}
}

// lockPlace notes for other processes, until unlock or the end of this one, that a directory of the pool
// is in use. Any number of processes may note the same.
func lockPlace(root, name string) (unlock func(), err error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	// A directory cannot be opened for writing, which a lock that excludes others would need. To be
	// seen is enough. The lock belongs to the open directory: it is not lost when another one is closed.
	lock := placeLock(name, unix.F_RDLCK)
	if err := unix.FcntlFlock(dir.Fd(), unix.F_OFD_SETLK, &lock); err != nil && !noLocks(err) {
		_ = dir.Close() // nothing was written
		return nil, errors.WithStack(err)
	}
	return func() { _ = dir.Close() }, nil
}

// placeLocked tells whether somebody, in this process or another, uses a directory of the pool. On a
// filesystem without locks nobody can tell, and nobody does.
func placeLocked(root, name string) (bool, error) {
	dir, err := os.Open(root)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	lock := placeLock(name, unix.F_WRLCK)
	if err := unix.FcntlFlock(dir.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		if noLocks(err) {
			return false, nil
		}
		return false, errors.WithStack(err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// placeLock describes the lock of a directory: one byte, far apart from that of any other name.
func placeLock(name string, kind int16) unix.Flock_t {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return unix.Flock_t{Type: kind, Start: int64(h.Sum64() >> 2), Len: 1}
}

// noLocks recognizes a filesystem that has no locks (on directories).
func noLocks(err error) bool {
	return errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.EINVAL)
}
