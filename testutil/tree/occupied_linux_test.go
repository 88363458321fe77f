package tree_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

func TestOccupied(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	occupied := func() [2]int64 {
		inodes, size, err := tree.Occupied(dir)
		require.NoError(t, err)
		return [2]int64{inodes, size}
	}
	empty := occupied()
	require.EqualValues(t, 1, empty[0])
	text := string(make([]byte, 10000))
	require.NoError(t, tree.Write(dir, tree.File("one", text), tree.Hardlink("two", "one")))
	own := occupied()
	require.EqualValues(t, 2, own[0], "one file, whatever its names")
	require.GreaterOrEqual(t, own[1], empty[1]+10000)
	require.NoError(t, tree.Write(outside, tree.File("f", text)))
	require.NoError(t, os.Link(filepath.Join(outside, "f"), filepath.Join(dir, "three")))
	require.Equal(t, own, occupied(), "it is there without this name, too")
	_, _, err := tree.Occupied(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
