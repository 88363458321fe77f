package snapshottest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/testutil/need"
)

// TestCleanTemp: an empty directory goes silently, files are named, and through a mount nothing is deleted.
func TestCleanTemp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "clean")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, cleanTemp(dir))
	require.NoDirExists(t, dir)

	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "forgotten"), nil, 0o600))
	require.ErrorContains(t, cleanTemp(dir), filepath.Join(dir, "forgotten"))
	require.NoDirExists(t, dir)
}

// TestCleanTempWithMount is the part that needs a mount.
func TestCleanTempWithMount(t *testing.T) {
	need.Mount(t)
	precious := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(precious, "file"), nil, 0o600))
	dir := filepath.Join(t.TempDir(), "mounted")
	at := filepath.Join(dir, "mnt")
	require.NoError(t, os.MkdirAll(at, 0o755))
	require.NoError(t, unix.Mount(precious, at, "", unix.MS_BIND, ""))
	err := cleanTemp(dir)
	require.NoError(t, unix.Unmount(at, unix.MNT_DETACH))
	require.ErrorContains(t, err, "mounts at "+at)
	require.FileExists(t, filepath.Join(precious, "file"))
	require.NoError(t, os.Remove(at))
	require.NoError(t, cleanTemp(dir))
}
