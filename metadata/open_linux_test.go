package metadata

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// TestReadOnlyFile meets a file and a directory that may not be written, also as root, whose
// thread looks at files as nobody for that.
func TestReadOnlyFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "metadata")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "metadata_v2.db")
	s, err := NewStore(path)
	require.NoError(t, err)
	require.NoError(t, s.Write(create("a")))
	require.NoError(t, s.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o444))
	require.NoError(t, os.Chmod(dir, 0o555))
	asNobody(t, func() {
		for _, p := range []string{path, filepath.Join(dir, "new.db")} {
			_, err = NewStore(p)
			require.ErrorIs(t, err, ErrReadOnly)
			require.True(t, errdefs.IsPermissionDenied(err))
		}
	})
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoFileExists(t, filepath.Join(dir, "new.db"))
}

// asNobody runs fn on a thread that accesses files with the rights of nobody.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	if os.Getuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		require.NoError(t, syscall.Setfsuid(65534))
		defer func() { require.NoError(t, syscall.Setfsuid(0)) }()
	}
	fn()
}

// TestFifo does not hang on a path that is no file.
// fault 44
func TestFifo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	_, err := NewStore(path)
	require.ErrorIs(t, err, ErrNotDatabase)
}
