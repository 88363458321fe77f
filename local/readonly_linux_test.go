package local

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// testReadOnlyMount puts a read-only mount over the directory, which stops root as well.
func testReadOnlyMount(t *testing.T) {
	if !canMount() {
		t.Skip("needs root: a read-only mount")
	}
	dir := t.TempDir()
	p := openParts(t, dir, Options{Snapshotter: Native})
	newLayer(t, p, "one", "")
	require.NoError(t, p.Close())
	require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	requireReadOnly(t, dir)
}
