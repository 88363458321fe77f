package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// counting is a mountable that counts what is done with it.
type counting struct {
	mu         sync.Mutex
	mounts     []mount.Mount
	releaseErr error
	mounted    int
	released   int
}

func (c *counting) IdentityMapping() *user.IdentityMapping { return nil }

func (c *counting) Mount() ([]mount.Mount, func() error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mounted++
	return c.mounts, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.released++
		return c.releaseErr
	}, nil
}

// requireNothingLeft fails if a mount point of a LocalMounter is in the temporary directory.
func requireNothingLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "buildkit-mount*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// bindOf is a single bind mount.
func bindOf(dir string, options ...string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: append([]string{"rbind"}, options...)}}
}

// TestWritableBindIsItsSource: nothing is mounted, any user may (spec LM-1).
func TestWritableBindIsItsSource(t *testing.T) {
	dir := t.TempDir()
	c := &counting{mounts: bindOf(dir, "rw")}
	lm := snapshot.LocalMounter(c)
	require.NoError(t, lm.Unmount(), "not mounted yet")
	for range 2 {
		path, err := lm.Mount()
		require.NoError(t, err)
		require.Equal(t, dir, path)
	}
	require.Equal(t, 1, c.mounted, "the second Mount returns the same mount")
	require.NoError(t, lm.Unmount())
	require.NoError(t, lm.Unmount())
	require.Equal(t, 1, c.released, "released once (quirk Q54)")
	require.DirExists(t, dir)
	requireNothingLeft(t)
}

// TestMounterIsReusable: a new Mount after Unmount asks the mountable anew (spec LM-2).
func TestMounterIsReusable(t *testing.T) {
	c := &counting{mounts: bindOf(t.TempDir(), "rw")}
	lm := snapshot.LocalMounter(c)
	for i := range 3 {
		_, err := lm.Mount()
		require.NoError(t, err)
		require.NoError(t, lm.Unmount())
		require.Equal(t, []int{i + 1, i + 1}, []int{c.mounted, c.released})
	}
}

// TestMounterReportsRelease: the error of the release is the error of Unmount, once (spec LM-2).
func TestMounterReportsRelease(t *testing.T) {
	c := &counting{mounts: bindOf(t.TempDir(), "rw"), releaseErr: errors.New("busy")}
	lm := snapshot.LocalMounter(c)
	_, err := lm.Mount()
	require.NoError(t, err)
	require.ErrorIs(t, lm.Unmount(), c.releaseErr)
	require.NoError(t, lm.Unmount())
	require.Equal(t, 1, c.released)
}

// TestMounterWithMountsCopies: the list is the caller's own (spec LM-3).
func TestMounterWithMountsCopies(t *testing.T) {
	dir := t.TempDir()
	mounts := bindOf(dir, "rw")
	lm := snapshot.LocalMounterWithMounts(mounts, nil) // a nil option is no option
	mounts[0].Source, mounts[0].Options[1] = "/spoilt", "ro"
	path, err := lm.Mount()
	require.NoError(t, err)
	require.Equal(t, dir, path)
	require.NoError(t, lm.Unmount())
}

// TestMounterBadSources: typed errors, nothing to release (spec LM-3).
func TestMounterBadSources(t *testing.T) {
	lm := snapshot.LocalMounter(nil)
	_, err := lm.Mount()
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	require.NoError(t, lm.Unmount())

	failure := errors.New("no mounts")
	lm = snapshot.LocalMounter(failing{failure})
	_, err = lm.Mount()
	require.ErrorIs(t, err, failure)
	require.NoError(t, lm.Unmount())
	requireNothingLeft(t)
}

// TestConcurrentMounts: all see one mount (spec LM-1).
func TestConcurrentMounts(t *testing.T) {
	dir := t.TempDir()
	c := &counting{mounts: bindOf(dir, "rw")}
	lm := snapshot.LocalMounter(c)
	paths := make([]string, 16)
	var wg sync.WaitGroup
	for i := range paths {
		wg.Go(func() { paths[i], _ = lm.Mount() })
	}
	wg.Wait()
	for _, p := range paths {
		require.Equal(t, dir, p)
	}
	require.Equal(t, 1, c.mounted)
	for range paths {
		wg.Go(func() { _ = lm.Unmount() })
	}
	wg.Wait()
	require.Equal(t, 1, c.released)
}
