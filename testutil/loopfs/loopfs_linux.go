// Package loopfs makes filesystems of a chosen type in a file, mounted through a loop device. It is for tests and
// benchmarks, takes root, and runs on Linux only.
package loopfs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The types of filesystems that are made. Btrfs and XFS share blocks between files.
const (
	Btrfs = "btrfs"
	XFS   = "xfs"
	Ext4  = "ext4"
)

// FS is a mounted filesystem.
type FS struct {
	// Dir is where it is mounted.
	Dir string

	image string
}

// ErrUnavailable means that the system lacks what it takes: mkfs, loop devices, or the filesystem.
var ErrUnavailable = errors.New("filesystem is not available")

// Make makes a filesystem of some size (sparse; 512 MiB are enough for any type) in the existing directory dir, and mounts it there.
func Make(dir, kind string, size int64) (_ *FS, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.Wrap(ErrUnavailable, "needs root")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		return nil, errors.Wrapf(ErrUnavailable, "needs mkfs.%s: %v", kind, err)
	}
	fs := &FS{Dir: filepath.Join(dir, kind), image: filepath.Join(dir, kind+".img")}
	defer func() {
		if err != nil {
			_ = os.Remove(fs.image) // err is what counts
			_ = os.Remove(fs.Dir)   // empty
		}
	}()
	if err := os.Mkdir(fs.Dir, 0o755); err != nil {
		return nil, errors.WithStack(err)
	}
	f, err := os.Create(fs.image)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	err = f.Truncate(size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, errors.WithStack(err)
	}
	args := []string{"-q"}
	if kind == Ext4 {
		args = append(args, "-m", "0") // root may use all of it, as everybody may
	}
	if out, err := exec.Command(mkfs, append(args, fs.image)...).CombinedOutput(); err != nil {
		return nil, errors.Wrapf(err, "mkfs.%s: %s", kind, bytes.TrimSpace(out))
	}
	// The device goes by itself when the filesystem is unmounted.
	m := mount.Mount{Type: kind, Source: fs.image, Options: []string{"loop"}}
	if err := m.Mount(fs.Dir); err != nil {
		return nil, errors.Wrapf(ErrUnavailable, "mounting %s: %v", kind, err)
	}
	return fs, nil
}

// collections is how often Close looks for files that nobody has closed.
const collections = 50

// Close unmounts the filesystem and removes its file.
func (fs *FS) Close() error {
	err := unix.Unmount(fs.Dir, 0)
	// containerd's content store does not close the file by which it finds out about fs-verity: garbage collection does.
	for i := 0; errors.Is(err, unix.EBUSY) && i < collections; i++ {
		runtime.GC()
		err = unix.Unmount(fs.Dir, 0)
	}
	if err != nil {
		return errors.Wrapf(err, "unmounting %s", fs.Dir)
	}
	if err := os.Remove(fs.image); err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.Remove(fs.Dir))
}

// New makes a filesystem for a test and returns its directory. The test is skipped, with the reason, where that is not possible.
func New(t testing.TB, kind string) string {
	t.Helper()
	return NewSized(t, kind, 512<<20)
}

// NewSized is New with a size of the filesystem in bytes.
func NewSized(t testing.TB, kind string, size int64) string {
	t.Helper()
	fs, err := Make(t.TempDir(), kind, size)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return fs.Dir
}
