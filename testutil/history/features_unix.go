//go:build linux || darwin

package history

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/testutil/tree"
)

// Probe returns what can be made in dir, an empty directory, by this process.
func Probe(t testing.TB, dir string) Features {
	t.Helper()
	f := Features{Modes: []uint32{0o755, 0o700, 0o775, 0o1777, 0o2755}}
	file, node := filepath.Join(dir, "file"), filepath.Join(dir, "node")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		f.Modes = append(f.Modes, 0, 0o444, 0o4755, 0o6711)
		for _, owner := range []int{3, 7, 8, 1000, 70000} {
			if os.Lchown(file, owner, owner) == nil {
				f.Owners = append(f.Owners, owner)
			}
		}
		if err := os.Lchown(file, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if makeNode(node, tree.KindChar, 1, 3) == nil {
		// In some places it can be made, but it is not one.
		if fd, err := unix.Open(node, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			f.Devices = true
			_ = unix.Close(fd) // nothing was written
		}
	}
	for name, x := range Xattrs {
		at := file
		if x.dirs {
			at = dir
		}
		if sysx.LSetxattr(at, x.name, []byte(x.value), 0) == nil {
			f.Xattrs = append(f.Xattrs, name)
			if err := sysx.LRemovexattr(at, x.name); err != nil && !noAttribute(err) {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(f.Xattrs)
	for _, path := range []string{file, node} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	return f
}
