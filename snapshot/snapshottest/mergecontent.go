package snapshottest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	trees "github.com/layercache/cache/testutil/tree"
)

func checkMergeLayers(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) {
		mkdir(t, root, "dir")
		write(t, root, "dir/first", "first")
		write(t, root, "both", "one")
	})
	h.commit(t, "two", "", func(root string) {
		mkdir(t, root, "dir")
		write(t, root, "dir/second", "second")
		write(t, root, "both", "two")
	})
	one, two := h.look(t, "one"), h.look(t, "two")
	h.mustMerge(t, "m", snapshot.Diff{Upper: "one"}, snapshot.Diff{Upper: "two"})
	require.Equal(t, tree{
		"dir": two["dir"], "dir/first": one["dir/first"], "dir/second": two["dir/second"], "both": two["both"],
	}, h.look(t, "m"))
	h.mustMerge(t, "m-other-way", snapshot.Diff{Upper: "two"}, snapshot.Diff{Upper: "one"})
	require.Equal(t, tree{
		"dir": one["dir"], "dir/first": one["dir/first"], "dir/second": two["dir/second"], "both": one["both"],
	}, h.look(t, "m-other-way"))
	// The result is a parent as any other.
	h.prepare(t, "child", "m", func(root string) {
		remove(t, root, "dir")
		write(t, root, "new", "new")
	})
	require.NoError(t, h.sn.Commit(h.ctx, "on-top", "child"))
	top := h.look(t, "on-top")
	require.Len(t, top, 2)
	require.Equal(t, two["both"], top["both"])
}

func checkMergeNothing(t *testing.T, h *mergeHarness) {
	h.mustMerge(t, "m")
	require.Empty(t, h.look(t, "m"))
	h.mustMerge(t, "m-empty", snapshot.Diff{}, snapshot.Diff{})
	require.Empty(t, h.look(t, "m-empty"))
	h.commit(t, "base", "", func(root string) { write(t, root, "file", "file") })
	want := h.look(t, "base")
	h.mustMerge(t, "m-base", snapshot.Diff{}, snapshot.Diff{Upper: "base"}, snapshot.Diff{Lower: "base", Upper: "base"})
	require.Equal(t, want, h.look(t, "m-base"))
	h.commit(t, "same", "base", nil)
	h.mustMerge(t, "m-same", layers("base", "same")...)
	require.Equal(t, want, h.look(t, "m-same"))
	h.mustMerge(t, "m-without", snapshot.Diff{Upper: "base"}, snapshot.Diff{Lower: "base"})
	require.Empty(t, h.look(t, "m-without"), "an empty upper tree deletes what the lower one has")
}

func checkMergeDeletes(t *testing.T, h *mergeHarness) {
	h.commit(t, "base", "", func(root string) {
		mkdir(t, root, "dir")
		mkdir(t, root, "dir/sub")
		write(t, root, "dir/sub/file", "file")
		write(t, root, "dir/kept", "kept")
		write(t, root, "gone", "gone")
	})
	h.commit(t, "top", "base", func(root string) {
		remove(t, root, "gone")
		remove(t, root, "dir/sub")
	})
	h.commit(t, "other", "", func(root string) {
		mkdir(t, root, "dir")
		mkdir(t, root, "dir/sub")
		write(t, root, "dir/sub/others", "others")
		write(t, root, "gone", "others")
		write(t, root, "more", "more")
	})
	base, other, top := h.look(t, "base"), h.look(t, "other"), h.look(t, "top")
	h.mustMerge(t, "m", append(layers("base", "top"), snapshot.Diff{Upper: "other"})...)
	require.Equal(t, tree{
		"dir": other["dir"], "dir/kept": base["dir/kept"], "dir/sub": other["dir/sub"], "dir/sub/others": other["dir/sub/others"],
		"gone": other["gone"], "more": other["more"],
	}, h.look(t, "m"))
	// The deletions reach what came from elsewhere, too.
	h.mustMerge(t, "m-deleted", snapshot.Diff{Upper: "other"}, snapshot.Diff{Lower: "base", Upper: "top"})
	require.Equal(t, tree{"dir": top["dir"], "more": other["more"]}, h.look(t, "m-deleted"))
}

func checkMergeReplaces(t *testing.T, h *mergeHarness) {
	h.commit(t, "base", "", func(root string) {
		mkdir(t, root, "dir")
		write(t, root, "dir/inside", "inside")
		write(t, root, "file", "file")
		require.NoError(t, os.Symlink("dir", filepath.Join(root, "link")))
		mkdir(t, root, "again")
		write(t, root, "again/old", "old")
	})
	h.commit(t, "top", "base", func(root string) {
		remove(t, root, "dir")
		write(t, root, "dir", "now a file")
		remove(t, root, "file")
		mkdir(t, root, "file")
		write(t, root, "file/inside", "now a directory")
		remove(t, root, "link")
		mkdir(t, root, "link")
		write(t, root, "link/inside", "not through the link")
		remove(t, root, "again")
		mkdir(t, root, "again")
		write(t, root, "again/new", "new")
	})
	want := h.look(t, "top")
	require.Len(t, want, 7)
	h.mustMerge(t, "m", layers("base", "top")...)
	require.Equal(t, want, h.look(t, "m"))
	h.commit(t, "below", "", func(root string) {
		write(t, root, "again", "a file where a directory will be")
		require.NoError(t, os.Symlink("nowhere", filepath.Join(root, "dir")))
	})
	h.mustMerge(t, "m-on-other", append([]snapshot.Diff{{Upper: "below"}}, layers("base", "top")...)...)
	require.Equal(t, want, h.look(t, "m-on-other"))
	h.mustMerge(t, "m-and-back", append(layers("base", "top"), snapshot.Diff{Lower: "top", Upper: "base"})...)
	require.Equal(t, h.look(t, "base"), h.look(t, "m-and-back"))
}

// full reads all there is to a tree.
func (h *mergeHarness) full(t *testing.T, key string) (got trees.Tree) {
	t.Helper()
	m, err := h.sn.View(h.ctx, "full-"+key, key)
	require.NoError(t, err)
	with(t, m, func(root string) {
		var err error
		got, err = trees.Read(root)
		require.NoError(t, err)
	})
	for _, e := range got { // what overlayfs notes shows where an upper directory is looked at as it is
		for name := range e.Xattrs {
			if strings.Contains(name, ".overlay.") {
				delete(e.Xattrs, name)
			}
		}
	}
	return got
}

func checkMergeAttributes(t *testing.T, h *mergeHarness) {
	root := os.Geteuid() == 0
	h.commit(t, "one", "", func(dir string) {
		entries := []trees.Entry{
			trees.Dir("dir", trees.Mode(0o2751|os.ModeSetgid), trees.Time(fileTime)), trees.File("dir/file", "text", trees.Mode(0o640), trees.Time(fileTime)),
			trees.Fifo("dir/pipe", trees.Mode(0o600), trees.Time(fileTime)), trees.Symlink("dir/link", "nowhere", trees.Time(fileTime)),
		}
		if root {
			entries = append(entries, trees.File("owned", "", trees.Owner(3, 4), trees.Mode(0o755|os.ModeSetuid), trees.Time(fileTime)),
				trees.Symlink("link", "x", trees.Owner(5, 6), trees.Time(fileTime)), trees.Socket("socket", trees.Time(fileTime)))
		}
		require.NoError(t, trees.Write(dir, entries...))
	})
	h.commit(t, "two", "", func(root string) { write(t, root, "apart", "apart") })
	want := h.full(t, "one")
	want["apart"] = h.full(t, "two")["apart"]
	h.mustMerge(t, "m", snapshot.Diff{Upper: "two"}, snapshot.Diff{Upper: "one"})
	require.Empty(t, trees.Diff(want, h.full(t, "m"), trees.Root))
}

func checkMergeLinks(t *testing.T, h *mergeHarness) {
	h.commit(t, "base", "", func(root string) {
		write(t, root, "a", "linked")
		require.NoError(t, os.Link(filepath.Join(root, "a"), filepath.Join(root, "b")))
		require.NoError(t, os.Link(filepath.Join(root, "a"), filepath.Join(root, "c")))
	})
	h.commit(t, "other", "", func(root string) { write(t, root, "b", "other") })
	h.mustMerge(t, "m", snapshot.Diff{Upper: "other"}, snapshot.Diff{Upper: "base"})
	got := h.full(t, "m")
	require.Equal(t, [2]string{"a", "a"}, [2]string{got["b"].Target, got["c"].Target})
	h.mustMerge(t, "m-broken", snapshot.Diff{Upper: "base"}, snapshot.Diff{Upper: "other"})
	got = h.full(t, "m-broken")
	require.Equal(t, trees.KindFile, got["b"].Kind)
	require.Equal(t, "other", got["b"].Data)
	require.Equal(t, "a", got["c"].Target, "the other names still are of one file")
	require.Equal(t, "linked", got["a"].Data)
}

func checkMergeTwice(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) { write(t, root, "file", "one") })
	h.commit(t, "two", "one", func(root string) { write(t, root, "file", "of another size") }) // equal to what is below it otherwise (spec DIF-7)
	one, two := snapshot.Diff{Upper: "one"}, snapshot.Diff{Lower: "one", Upper: "two"}
	h.mustMerge(t, "m", one, two, one, two, two)
	require.Equal(t, h.look(t, "two"), h.look(t, "m"))
	h.mustMerge(t, "m-one", one, two, one, one)
	require.Equal(t, h.look(t, "one"), h.look(t, "m-one"))
}

func checkMergeMerges(t *testing.T, h *mergeHarness) {
	for _, name := range []string{"one", "two", "three"} {
		h.commit(t, name, "", func(root string) { write(t, root, name, name) })
	}
	h.mustMerge(t, "m", snapshot.Diff{Upper: "one"}, snapshot.Diff{Upper: "two"})
	h.mustMerge(t, "mm", snapshot.Diff{Upper: "m"}, snapshot.Diff{Upper: "three"})
	h.commit(t, "top", "mm", func(root string) { remove(t, root, "two") })
	h.mustMerge(t, "mmm", snapshot.Diff{Upper: "three"}, snapshot.Diff{Upper: "two"}, snapshot.Diff{Lower: "mm", Upper: "top"}, snapshot.Diff{Lower: "one", Upper: "m"})
	got := h.look(t, "mmm")
	require.Len(t, got, 2)
	require.Contains(t, got, "three")
	require.Contains(t, got, "two", "deleted by the second last, and back by the last")
	h.mustMerge(t, "deleted", snapshot.Diff{Upper: "mm"}, snapshot.Diff{Lower: "mm", Upper: "top"})
	require.Equal(t, h.look(t, "top"), h.look(t, "deleted"))
}

func checkMergeUnrelated(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) {
		mkdir(t, root, "dir")
		write(t, root, "dir/one", "one")
		write(t, root, "same", "same")
	})
	h.commit(t, "two", "", func(root string) {
		mkdir(t, root, "dir")
		write(t, root, "dir/two", "two")
		write(t, root, "same", "same")
	})
	one, two := h.look(t, "one"), h.look(t, "two")
	h.mustMerge(t, "m", snapshot.Diff{Lower: "one", Upper: "two"})
	require.Equal(t, tree{"dir": two["dir"], "dir/two": two["dir/two"]}, h.look(t, "m"), "what is equal is no change")
	h.mustMerge(t, "m-applied", snapshot.Diff{Upper: "one"}, snapshot.Diff{Lower: "one", Upper: "two"})
	require.Equal(t, two, h.look(t, "m-applied"))
	require.NotEqual(t, one, two)
}

// checkMergeSources: whatever a child of the merge does, neither the sources nor the merge change (spec APP-10).
func checkMergeSources(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) {
		write(t, root, "file", "one")
		write(t, root, "other", "other")
		require.NoError(t, os.Symlink("file", filepath.Join(root, "link")))
	})
	h.commit(t, "two", "", func(root string) { write(t, root, "two", "two") })
	h.mustMerge(t, "m", snapshot.Diff{Upper: "one"}, snapshot.Diff{Upper: "two"})
	before := map[string]trees.Tree{}
	for _, key := range []string{"one", "two", "m"} {
		before[key] = h.full(t, key)
	}
	h.prepare(t, "child", "m", func(root string) {
		f, err := os.OpenFile(filepath.Join(root, "file"), os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteString("rewritten in place")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.NoError(t, os.Chmod(filepath.Join(root, "other"), 0o600))
		require.NoError(t, os.Chtimes(filepath.Join(root, "two"), fileTime, fileTime.Add(1)))
		remove(t, root, "link")
	})
	require.NoError(t, h.sn.Commit(h.ctx, "changed", "child"))
	got := h.look(t, "changed")
	require.Contains(t, got["file"], "rewritten in place")
	for key, want := range before {
		m, err := h.sn.View(h.ctx, "after-"+key, key)
		require.NoError(t, err)
		with(t, m, func(root string) {
			got, err := trees.Read(root)
			require.NoError(t, err)
			require.Equal(t, want["file"].Data, got["file"].Data)
			require.Equal(t, want["other"].Mode, got["other"].Mode)
			require.True(t, want["two"].ModTime.Equal(got["two"].ModTime))
			require.Equal(t, want["link"].Target, got["link"].Target)
		})
	}
}
