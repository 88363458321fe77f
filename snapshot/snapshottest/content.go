package snapshottest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

var contentChecks = []check{
	{name: "EmptyTrees", content: true, run: checkEmptyTrees},
	{name: "CommitKeepsTheTree", content: true, run: checkCommitTree},
	{name: "LayersOnLayers", content: true, run: checkLayers},
	{name: "Links", content: true, run: checkLinks},
	{name: "Siblings", content: true, run: checkSiblings},
	{name: "LongChain", content: true, run: checkChain},
	{name: "Usage", content: true, run: checkUsage},
	{name: "RemoveKeepsTheParent", content: true, run: checkRemoveContent},
}

func checkEmptyTrees(t *testing.T, h *harness) {
	h.prepare(t, "a", "", func(root string) { require.Empty(t, readTree(t, root)) })
	require.Empty(t, h.view(t, "v", ""))
	require.NoError(t, h.sn.Commit(h.ctx, "c", "a"))
	require.Empty(t, h.view(t, "vc", "c"))
	// The same empty layer twice: overlayfs must not see one directory two times.
	h.commit(t, "cc", "c", nil)
	require.Empty(t, h.view(t, "vcc", "cc"))
}

func checkCommitTree(t *testing.T, h *harness) {
	var want tree
	h.prepare(t, "a", "", func(root string) {
		mkdir(t, root, "dir")
		mkdir(t, root, "dir/empty")
		write(t, root, "dir/file", "content")
		write(t, root, "none", "")
		if runtime.GOOS != "windows" {
			require.NoError(t, os.Chmod(filepath.Join(root, "dir/file"), 0o750))
			require.NoError(t, os.Chmod(filepath.Join(root, "dir/empty"), 0o700))
		}
		want = readTree(t, root)
	})
	require.Len(t, want, 4)
	h.edit(t, "a", func(root string) { require.Equal(t, want, readTree(t, root), "after mounting anew") })
	require.NoError(t, h.sn.Commit(h.ctx, "c", "a"))
	require.Equal(t, want, h.view(t, "v", "c"))
	h.edit(t, "v", func(root string) { require.Equal(t, want, readTree(t, root), "by Mounts of the view") })
	h.prepare(t, "child", "c", func(root string) { require.Equal(t, want, readTree(t, root)) })
}

func checkLayers(t *testing.T, h *harness) {
	h.commit(t, "base", "", func(root string) {
		mkdir(t, root, "kept")
		write(t, root, "kept/file", "kept")
		write(t, root, "changed", "old")
		write(t, root, "gone", "gone")
		mkdir(t, root, "gonedir")
		write(t, root, "gonedir/file", "gone")
		mkdir(t, root, "again")
		write(t, root, "again/old", "old")
		mkdir(t, root, "dirtofile")
		write(t, root, "dirtofile/file", "gone")
		write(t, root, "filetodir", "gone")
		mkdir(t, root, "renamed")
		write(t, root, "renamed/file", "moves along")
	})
	base := h.view(t, "v-base", "base")

	var want tree
	h.commit(t, "top", "base", func(root string) {
		write(t, root, "kept/new", "new")
		write(t, root, "changed", "new")
		remove(t, root, "gone")
		remove(t, root, "gonedir")
		remove(t, root, "again")
		mkdir(t, root, "again") // nothing old may shine through
		write(t, root, "again/new", "new")
		remove(t, root, "dirtofile")
		write(t, root, "dirtofile", "file")
		remove(t, root, "filetodir")
		mkdir(t, root, "filetodir")
		write(t, root, "filetodir/file", "file")
		renameDir(t, filepath.Join(root, "renamed"), filepath.Join(root, "moved"))
		want = readTree(t, root)
	})
	for _, path := range []string{"gone", "gonedir", "gonedir/file", "again/old", "dirtofile/file", "renamed", "renamed/file"} {
		require.NotContains(t, want, path)
	}
	for _, path := range []string{"kept/file", "kept/new", "again/new", "filetodir/file", "moved/file"} {
		require.Contains(t, want, path)
	}
	require.Equal(t, want, h.view(t, "v-top", "top"))
	require.Equal(t, base, h.view(t, "v-base-after", "base"), "a child changed its parent")

	h.commit(t, "third", "top", func(root string) {
		require.Equal(t, want, readTree(t, root))
		write(t, root, "gone", "back")
		want = readTree(t, root)
	})
	require.Equal(t, want, h.view(t, "v-third", "third"))
}

// renameDir renames a directory, by copying it as mv does where the file system cannot (overlayfs answers EXDEV
// for a directory of a lower layer when redirect_dir is off).
func renameDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err == nil {
		return
	}
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	require.NoError(t, os.RemoveAll(from))
}

func checkLinks(t *testing.T, h *harness) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
	h.commit(t, "base", "", func(root string) {
		write(t, root, "file", "linked")
		require.NoError(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "hard")))
		require.NoError(t, os.Symlink("file", filepath.Join(root, "soft")))
		require.NoError(t, os.Symlink("nowhere/at/all", filepath.Join(root, "dangling")))
	})
	require.NoError(t, h.sn.Prepare(h.ctx, "a", "base"))
	for _, key := range []string{"v", "a"} {
		if key == "v" {
			_, err := h.sn.View(h.ctx, "v", "base")
			require.NoError(t, err)
		}
		h.edit(t, key, func(root string) {
			got := readTree(t, root)
			require.Equal(t, "-> file", got["soft"])
			require.Equal(t, "-> nowhere/at/all", got["dangling"])
			one, err := os.Stat(filepath.Join(root, "file"))
			require.NoError(t, err)
			two, err := os.Stat(filepath.Join(root, "hard"))
			require.NoError(t, err)
			require.True(t, os.SameFile(one, two), "a hard link became a copy")
		})
	}
}

func checkSiblings(t *testing.T, h *harness) {
	h.commit(t, "base", "", func(root string) { write(t, root, "file", "base") })
	base := h.view(t, "v-base", "base")
	var one, two tree
	h.prepare(t, "one", "base", func(root string) { write(t, root, "file", "one"); one = readTree(t, root) })
	h.prepare(t, "two", "base", func(root string) { remove(t, root, "file"); two = readTree(t, root) })
	h.edit(t, "one", func(root string) { require.Equal(t, one, readTree(t, root)) })
	h.edit(t, "two", func(root string) { require.Equal(t, two, readTree(t, root)) })
	h.prepare(t, "three", "base", func(root string) { require.Equal(t, base, readTree(t, root)) })
	require.Empty(t, two)
	require.NotEqual(t, base, one)
}

func checkChain(t *testing.T, h *harness) {
	const length = 24
	parent := ""
	var want tree
	for i := range length {
		name := fmt.Sprintf("layer-%02d", i)
		h.commit(t, name, parent, func(root string) {
			write(t, root, fmt.Sprintf("file-%02d", i), name)
			if i > 1 {
				remove(t, root, fmt.Sprintf("file-%02d", i-2))
			}
			want = readTree(t, root)
		})
		parent = name
	}
	require.Len(t, want, 2)
	require.Equal(t, want, h.view(t, "v", parent))
	for i := length - 1; i > 0; i-- {
		info, err := h.sn.Stat(h.ctx, fmt.Sprintf("layer-%02d", i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("layer-%02d", i-1), info.Parent)
	}
}

func checkUsage(t *testing.T, h *harness) {
	const size = 256 << 10
	data := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{})
	_, err := rnd.Read(data) // not to be compressed away
	require.NoError(t, err)

	h.prepare(t, "a", "", nil)
	empty, err := h.sn.Usage(h.ctx, "a")
	require.NoError(t, err)
	h.edit(t, "a", func(root string) { write(t, root, "file", string(data)) })
	active, err := h.sn.Usage(h.ctx, "a")
	require.NoError(t, err)
	require.GreaterOrEqual(t, active.Size-empty.Size, int64(size))
	require.Equal(t, empty.Inodes+1, active.Inodes)

	require.NoError(t, h.sn.Commit(h.ctx, "c", "a"))
	committed, err := h.sn.Usage(h.ctx, "c")
	require.NoError(t, err)
	require.GreaterOrEqual(t, committed.Size, int64(size))
	again, err := h.sn.Usage(h.ctx, "c")
	require.NoError(t, err)
	require.Equal(t, committed, again, "the usage of a committed snapshot is fixed")
}

func checkRemoveContent(t *testing.T, h *harness) {
	if h.RemoveForbidden {
		t.Skip("the fixture forbids Remove")
	}
	h.commit(t, "base", "", func(root string) { write(t, root, "file", "base") })
	want := h.view(t, "v", "base")
	h.commit(t, "top", "base", func(root string) { remove(t, root, "file") })
	h.prepare(t, "a", "base", func(root string) { write(t, root, "file", "other") })
	for _, key := range []string{"a", "top", "v"} {
		require.NoError(t, h.sn.Remove(h.ctx, key))
	}
	require.Equal(t, want, h.view(t, "v", "base"))
	h.prepare(t, "a", "base", func(root string) {
		require.Equal(t, want, readTree(t, root), "a removed snapshot's key brought its tree back")
	})
}
