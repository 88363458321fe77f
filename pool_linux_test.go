package cache

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Fault 32, spec SHM-5: a directory that is in use is not cleaned, whoever uses it; one beside it is.
func TestCleanPoolInUse(t *testing.T) {
	p, _ := newFakePool(t)
	where, release := mustMount(t, p.share("key", overlayOf("o")))
	require.NoError(t, os.Mkdir(filepath.Join(p.root, "buildkit1"), 0o700))
	cleaner := &fakeSystem{t: t, on: map[string]string{}}
	clean := func() {
		t.Helper()
		other, err := openPool(p.root)
		require.NoError(t, err)
		other.sys = cleaner.system()
		other.clean(context.Background())
	}
	clean()
	require.Equal(t, []string{filepath.Base(where)}, entriesOf(t, p.root))
	require.Equal(t, 1, cleaner.unmounts)

	live, err := placeLocked(p.root, filepath.Base(where))
	require.NoError(t, err)
	require.True(t, live)
	require.NoError(t, release())
	live, err = placeLocked(p.root, filepath.Base(where))
	require.NoError(t, err)
	require.False(t, live)
}

// Fault 32: what Close could not take away is left for the next start, in this process or another.
func TestCleanWhatCloseLeft(t *testing.T) {
	p, f := newFakePool(t)
	f.mountErr, f.detachErr = errSystem, errSystem
	_, _, err := p.share("key", overlayOf("o")).Mount()
	require.ErrorIs(t, err, errSystem)
	require.ErrorIs(t, p.close(), errSystem)
	f.detachErr = nil
	next, err := openPool(p.root)
	require.NoError(t, err)
	next.sys = f.system()
	next.clean(context.Background())
	require.Empty(t, entriesOf(t, p.root))
}

// Fault 32: a pool that is gone by the time of cleaning, and what is gone in it, is no harm.
func TestCleanVanishedPool(t *testing.T) {
	p, f := newFakePool(t)
	require.NoError(t, os.Mkdir(filepath.Join(p.root, "buildkit1"), 0o700))
	next, err := openPool(p.root)
	require.NoError(t, err)
	next.sys = f.system()
	require.NoError(t, os.Remove(filepath.Join(p.root, "buildkit1")))
	next.clean(context.Background())
	require.Equal(t, 1, f.unmounts)
	next.found = []string{"buildkit1"}
	require.NoError(t, os.Rename(p.root, p.root+"-moved"))
	next.clean(context.Background())
	require.Equal(t, 1, f.unmounts, "whether it was in use cannot be known")
	require.NoError(t, os.Rename(p.root+"-moved", p.root))
	require.NoError(t, unmountDir(filepath.Join(p.root, "none"), true))
}
