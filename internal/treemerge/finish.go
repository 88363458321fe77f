//go:build linux

package treemerge

import (
	"context"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Usage is what the target takes up, files counted once, without those that are links to others' (spec MRG-6).
type Usage struct{ Inodes, Size int64 }

// blockSize is the unit of st_blocks, whatever the filesystem's own is.
const blockSize = 512

// Finish gives the directories their times, and adds up what the target takes up. It is the last that is done.
func (m *Merge) Finish(ctx context.Context) (Usage, error) {
	f := finisher{m: m, ctx: ctx, counted: map[inode]bool{}}
	err := f.dir(m.root, m.rootFd)
	return f.usage, err
}

type finisher struct {
	m     *Merge
	ctx   context.Context //nolint:containedctx // a finisher is one call
	usage Usage
	// counted are files with several names that have been counted.
	counted map[inode]bool
}

func (f *finisher) count(st *unix.Stat_t) {
	f.usage.Inodes++
	f.usage.Size += st.Blocks * blockSize
}

// dir finishes an open directory. Its times are set after everything in it.
func (f *finisher) dir(n *node, fd int) error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	for name, child := range n.mu.children {
		if err := f.child(fd, name, child); err != nil {
			return err
		}
	}
	if n.mu.own {
		if err := f.files(n, fd); err != nil {
			return err
		}
	}
	if n.hasMode {
		if err := unix.Fchmod(fd, n.mode); err != nil {
			return errors.Wrap(err, "setting the mode")
		}
	}
	if n.hasMtime {
		if err := setTimes(fd, unix.Timespec{Nsec: unix.UTIME_OMIT}, n.mtime); err != nil {
			return errors.Wrap(err, "setting the time")
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Wrap(err, "looking at a directory")
	}
	f.count(&st)
	return nil
}

func (f *finisher) child(dirfd int, name string, n *node) error {
	fd, err := unix.Openat(dirfd, name, openDir, 0)
	if err != nil {
		return errors.Wrapf(err, "opening directory %q", name)
	}
	defer func() { _ = unix.Close(fd) }() // a directory
	return errors.WithMessagef(f.dir(n, fd), "directory %q", name)
}

// files counts those files of a directory that Merge made.
func (f *finisher) files(n *node, fd int) error {
	names, err := entries(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		if n.mu.children[name] != nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return errors.Wrapf(err, "looking at %q", name)
		}
		if st.Nlink > 1 {
			id := inodeOf(&st)
			// What others have, too, was linked from there.
			if !f.m.mu.own[id] || f.counted[id] {
				continue
			}
			f.counted[id] = true
		}
		f.count(&st)
	}
	return nil
}

// setTimes sets the times of an open file.
func setTimes(fd int, atime, mtime unix.Timespec) error {
	times := [2]unix.Timespec{atime, mtime}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
