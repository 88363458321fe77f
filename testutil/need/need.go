// Package need skips tests that the environment cannot run, each with the reason.
package need

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/sysx"
)

// Root skips the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Unprivileged skips the test if it runs as root: it is about what an ordinary user cannot do.
func Unprivileged(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("needs a user that is not root")
	}
}

// Mount skips the test unless it may mount.
func Mount(t testing.TB) {
	t.Helper()
	Root(t)
	dir := t.TempDir()
	m := mount.Mount{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}
	if err := m.Mount(dir); err != nil {
		t.Skipf("needs permission to mount: %v", err)
	}
	unmount(t, dir)
}

// Overlay skips the test unless overlay mounts work in the directory that tests get.
func Overlay(t testing.TB) {
	t.Helper()
	Root(t)
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux for overlay mounts")
	}
	root := t.TempDir()
	dirs := map[string]string{}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		dirs[name] = filepath.Join(root, name)
		if err := os.Mkdir(dirs[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dirs["lower"], "upperdir=" + dirs["upper"], "workdir=" + dirs["work"],
	}}
	if err := m.Mount(dirs["merged"]); err != nil {
		t.Skipf("needs overlay mounts in %s: %v", root, err)
	}
	unmount(t, dirs["merged"])
}

// Xattr skips the test unless extended attributes of users work in dir.
func Xattr(t testing.TB, dir string) {
	t.Helper()
	file := filepath.Join(dir, "xattr-probe")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := sysx.LSetxattr(file, "user.probe", []byte("1"), 0)
	if rmErr := os.Remove(file); rmErr != nil {
		t.Fatal(rmErr)
	}
	if err != nil {
		t.Skipf("needs extended attributes in %s: %v", dir, err)
	}
}

func unmount(t testing.TB, dir string) {
	t.Helper()
	if err := mount.UnmountAll(dir, 0); err != nil {
		t.Fatalf("unmounting %s: %v", dir, err)
	}
}
