package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/need"
)

func isMounted(t *testing.T, path string) bool {
	t.Helper()
	mounted, err := mountinfo.Mounted(path)
	require.NoError(t, err)
	return mounted
}

// dirWith makes a directory that holds one file.
func dirWith(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("content"), 0o644))
	return dir
}

// unprivileged runs do without CAP_SYS_ADMIN, on a thread that is given it back afterwards.
func unprivileged(t *testing.T, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var with [2]unix.CapUserData
	require.NoError(t, unix.Capget(&header, &with[0]))
	without := with
	without[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	require.NoError(t, unix.Capset(&header, &without[0]))
	defer func() { require.NoError(t, unix.Capset(&header, &with[0])) }()
	do()
}

// TestReadOnlyBindIsEnforced: with the privilege there is a mount that nobody can write to (spec LM-1, LM-2).
func TestReadOnlyBindIsEnforced(t *testing.T) {
	need.Mount(t)
	dir := dirWith(t, "file")
	c := &counting{mounts: bindOf(dir, "ro")}
	lm := snapshot.LocalMounter(c)
	path, err := lm.Mount()
	require.NoError(t, err)
	require.NotEqual(t, dir, path)
	require.Equal(t, os.TempDir(), filepath.Dir(path))
	require.True(t, strings.HasPrefix(filepath.Base(path), "buildkit-mount"), path)
	require.FileExists(t, filepath.Join(path, "file"))
	require.ErrorIs(t, os.WriteFile(filepath.Join(path, "new"), nil, 0o644), unix.EROFS)
	again, err := lm.Mount()
	require.NoError(t, err)
	require.Equal(t, path, again)

	held, err := os.Open(filepath.Join(path, "file")) // a user does not stop the unmounting
	require.NoError(t, err)
	require.NoError(t, lm.Unmount())
	require.NoError(t, held.Close())
	require.NoDirExists(t, path)
	require.FileExists(t, filepath.Join(dir, "file"))
	require.NoError(t, lm.Unmount())
	require.Equal(t, []int{1, 1}, []int{c.mounted, c.released})
	requireNothingLeft(t)
}

// TestForceRemount: a writable bind gets a mount of its own (spec LM-3).
func TestForceRemount(t *testing.T) {
	need.Mount(t)
	dir := dirWith(t, "file")
	lm := snapshot.LocalMounterWithMounts(bindOf(dir, "rw"), snapshot.ForceRemount())
	path, err := lm.Mount()
	require.NoError(t, err)
	require.NotEqual(t, dir, path)
	require.True(t, isMounted(t, path))
	require.NoError(t, os.WriteFile(filepath.Join(path, "new"), nil, 0o644))
	require.NoError(t, lm.Unmount())
	require.FileExists(t, filepath.Join(dir, "new"))
	requireNothingLeft(t)
}

// TestFileBind: a file is mounted on a file, and both it and its directory go (spec LM-1, LM-2, quirk Q54).
func TestFileBind(t *testing.T) {
	need.Mount(t)
	file := filepath.Join(dirWith(t, "file"), "file")
	for _, opts := range [][]snapshot.LocalMounterOpt{nil, {snapshot.ForceRemount()}} {
		lm := snapshot.LocalMounterWithMounts(bindOf(file, "ro"), opts...)
		path, err := lm.Mount()
		require.NoError(t, err)
		require.NotEqual(t, file, path)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "content", string(data))
		require.NoError(t, lm.Unmount())
		require.NoDirExists(t, filepath.Dir(path))
	}
	requireNothingLeft(t)
}

// TestMountLists: stacked mounts and mounts inside mounts go away together (spec LM-1, LM-2).
func TestMountLists(t *testing.T) {
	need.Mount(t)
	below, above := dirWith(t, "below"), dirWith(t, "above")
	require.NoError(t, os.Mkdir(filepath.Join(above, "sub"), 0o755))
	c := &counting{mounts: []mount.Mount{
		bindOf(below, "ro")[0], bindOf(above, "ro")[0], {Type: "tmpfs", Source: "tmpfs", Target: "sub"},
	}}
	lm := snapshot.LocalMounter(c)
	path, err := lm.Mount()
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(path, "above"))
	require.True(t, isMounted(t, filepath.Join(path, "sub")))
	require.NoError(t, lm.Unmount())
	require.NoDirExists(t, path)
	require.Equal(t, 1, c.released)
	requireNothingLeft(t)
}

// TestBindWithTarget: a subdirectory of the mount point is no source path (spec LM-1).
func TestBindWithTarget(t *testing.T) {
	mounts := bindOf(t.TempDir(), "rw")
	mounts[0].Target = "sub"
	_, err := snapshot.LocalMounterWithMounts(mounts).Mount()
	require.Error(t, err, "there is no sub to mount on")
	requireNothingLeft(t)
}

// TestFailedMount: what was mounted is taken away without touching its content, and the mountable is released
// (spec LM-2, quirk Q54).
func TestFailedMount(t *testing.T) {
	need.Mount(t)
	dir := dirWith(t, "precious")
	for name, mounts := range map[string][]mount.Mount{
		"half way":          {bindOf(dir, "rw")[0], {Type: "no-such-filesystem", Source: "none"}},
		"missing source":    bindOf(filepath.Join(dir, "missing"), "ro"),
		"broken overlay":    {{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + filepath.Join(dir, "missing")}}},
		"two binds, no dir": {bindOf(dir, "rw")[0], bindOf(filepath.Join(dir, "missing"), "rw")[0]},
	} {
		t.Run(name, func(t *testing.T) {
			c := &counting{mounts: mounts}
			lm := snapshot.LocalMounter(c)
			_, err := lm.Mount()
			require.Error(t, err)
			require.Equal(t, []int{1, 1}, []int{c.mounted, c.released})
			require.NoError(t, lm.Unmount())
			require.Equal(t, 1, c.released)
			require.FileExists(t, filepath.Join(dir, "precious"))
			requireNothingLeft(t)
		})
	}
}

// TestNoMounts: nothing mounted is an empty directory, and Unmount deletes nothing that is in it (spec LM-1, LM-2).
func TestNoMounts(t *testing.T) {
	c := &counting{}
	lm := snapshot.LocalMounter(c)
	path, err := lm.Mount()
	require.NoError(t, err)
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	require.Empty(t, entries)

	file := filepath.Join(path, "precious")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, lm.Unmount())
	require.FileExists(t, file)
	require.Zero(t, c.released, "what could not be unmounted is still held")
	require.NoError(t, os.Remove(file))
	require.NoError(t, lm.Unmount(), "asked again")
	require.Equal(t, 1, c.released)
	requireNothingLeft(t)
}

// TestWithoutPrivileges: a single bind mount is its source, read-only too and for a file; all else is a typed error
// and releases the mountable (spec LM-1, LM-2, quirk Q54; design 6b).
func TestWithoutPrivileges(t *testing.T) {
	dir := dirWith(t, "file")
	file := filepath.Join(dir, "file")
	unprivileged(t, func() {
		for _, source := range []string{dir, file} {
			for _, mode := range []string{"ro", "rw"} {
				lm := snapshot.LocalMounterWithMounts(bindOf(source, mode))
				path, err := lm.Mount()
				require.NoError(t, err)
				require.Equal(t, source, path)
				require.NoError(t, lm.Unmount())
			}
		}
		for name, tc := range map[string]struct {
			mounts []mount.Mount
			opts   []snapshot.LocalMounterOpt
		}{
			"overlay":       {mounts: []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b"}}}},
			"two binds":     {mounts: append(bindOf(dir, "ro"), bindOf(dir, "ro")...)},
			"force remount": {mounts: bindOf(dir, "rw"), opts: []snapshot.LocalMounterOpt{snapshot.ForceRemount()}},
		} {
			c := &counting{mounts: tc.mounts}
			_, err := snapshot.LocalMounter(c, tc.opts...).Mount()
			require.True(t, errdefs.IsPermissionDenied(err), "%s: %v", name, err)
			require.Equal(t, 1, c.released, name)
		}
	})
	requireNothingLeft(t)
}

// TestMountErrorsAreShort: an overlay of hundreds of directories does not fill the log (spec LM-2).
func TestMountErrorsAreShort(t *testing.T) {
	var dirs []string
	for i := range 500 {
		dirs = append(dirs, fmt.Sprintf("/var/lib/snapshots/%d/fs", i))
	}
	unprivileged(t, func() {
		_, err := snapshot.LocalMounterWithMounts([]mount.Mount{{
			Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(dirs, ":")},
		}}).Mount()
		require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
		require.Less(t, len(err.Error()), 400)
	})
}
