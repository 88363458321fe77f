package loopfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/testutil/loopfs"
	"github.com/layercache/cache/testutil/need"
)

// TestNew: files can be cloned, and nothing stays behind.
func TestNew(t *testing.T) {
	need.Root(t)
	for _, kind := range []string{loopfs.Btrfs, loopfs.XFS} {
		var dir string
		t.Run(kind, func(t *testing.T) {
			dir = loopfs.New(t, kind)
			from, err := os.Create(filepath.Join(dir, "from"))
			require.NoError(t, err)
			defer from.Close()
			_, err = from.WriteString("text")
			require.NoError(t, err)
			to, err := os.Create(filepath.Join(dir, "to"))
			require.NoError(t, err)
			defer to.Close()
			require.NoError(t, unix.IoctlFileClone(int(to.Fd()), int(from.Fd())))
		})
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Dir(dir)))
		require.NoError(t, err)
		require.Empty(t, mounts)
		require.NoDirExists(t, dir)
	}
}

// TestUnavailable: what is not there is said, and leaves nothing.
func TestUnavailable(t *testing.T) {
	dir := t.TempDir()
	_, err := loopfs.Make(dir, "nosuch", 1<<20)
	require.ErrorIs(t, err, loopfs.ErrUnavailable)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
