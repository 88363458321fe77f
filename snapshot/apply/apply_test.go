package apply_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLayersOnPlainDirectory: what each layer makes of the tree below, where that is a plain directory, as on native (spec EXT-6, EXT-7; design 6b).
func TestLayersOnPlainDirectory(t *testing.T) {
	for _, c := range layerCases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			testutil.WriteTree(t, dir, c.base...)
			applyBind(t, dir, pack(t, c.layer...))
			testutil.RequireTree(t, dir, c.want...)
		})
	}
}

// TestLockedDirectories: modes that shut out the owner are no obstacle to unpacking, and are what the layer says in the end, whoever
// unpacks it (design 6b).
func TestLockedDirectories(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { // for whoever removes it
		for _, name := range []string{"a", "a/b", "again"} {
			require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o700))
		}
	})
	applyBind(t, dir, pack(t,
		tree.Dir("a", tree.Mode(0o555), tree.Time(nanos)), tree.Dir("a/b", tree.Mode(0o500), tree.Time(nanos)), tree.File("a/b/f", "x", tree.Mode(0o400), tree.Xattr("user.a", "1")),
		tree.Hardlink("a/g", "a/b/f"), tree.File("none", "x", tree.Mode(0), tree.Xattr("user.a", "1")), tree.Dir("was", tree.Mode(0o100)), tree.File("was/f", "x"), tree.File("was", "y", tree.Mode(0o640)),
		tree.Dir("again", tree.Mode(0o500)), tree.File("again/f", "x"), tree.Dir("again", tree.Mode(0o711)),
	))
	for name, want := range map[string]fs.FileMode{
		"a": fs.ModeDir | 0o555, "a/b": fs.ModeDir | 0o500, "a/b/f": 0o400, "a/g": 0o400, "none": 0, "was": 0o640, "again": fs.ModeDir | 0o711, "again/f": 0o644,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, info.Mode(), name)
		if want.IsDir() && name != "again" {
			require.True(t, info.ModTime().Equal(nanos), name)
		}
	}
}

// applyBind unpacks an archive in a directory.
func applyBind(t *testing.T, dir string, archive []byte) {
	t.Helper()
	store := &blobs{}
	desc := store.put(gz(t, archive), layerType+"+gzip")
	got, err := apply.New(store).Apply(t.Context(), desc, bind(dir))
	require.NoError(t, err)
	requireDiffID(t, archive, got)
	require.Zero(t, store.open)
}
