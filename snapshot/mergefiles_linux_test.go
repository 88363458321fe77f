package snapshot_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

var oddTime = time.Date(2021, 2, 3, 4, 5, 6, 123456789, time.UTC)

// kinds are all that can have a name, each with what tells it apart.
var kinds = map[string]func(t *testing.T, root, name string){
	"file": func(t *testing.T, root, name string) {
		require.NoError(t, tree.Write(root, tree.File(name, "content", tree.Mode(0o640), tree.Owner(7, 8), tree.Time(oddTime))))
	},
	"directory": func(t *testing.T, root, name string) {
		require.NoError(t, tree.Write(root, tree.Dir(name, tree.Mode(0o750), tree.Owner(7, 8)), tree.File(name+"/inside", "in", tree.Time(oddTime))))
		require.NoError(t, os.Chtimes(filepath.Join(root, name), oddTime, oddTime))
	},
	"symlink": func(t *testing.T, root, name string) {
		require.NoError(t, tree.Write(root, tree.Symlink(name, "/nowhere", tree.Owner(7, 8), tree.Time(oddTime))))
	},
	"fifo": func(t *testing.T, root, name string) {
		require.NoError(t, tree.Write(root, tree.Fifo(name, tree.Mode(0o640), tree.Owner(7, 8), tree.Time(oddTime))))
	},
	"char": func(t *testing.T, root, name string) {
		require.NoError(t, tree.Write(root, tree.Char(name, 1, 3, tree.Mode(0o640), tree.Owner(7, 8), tree.Time(oddTime))))
	},
	"block": func(t *testing.T, root, name string) {
		require.NoError(t, tree.Write(root, tree.Block(name, 7, 200, tree.Mode(0o640), tree.Owner(7, 8), tree.Time(oddTime))))
	},
	"socket": func(t *testing.T, root, name string) {
		t.Chdir(root) // the name of a socket must be short
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		require.NoError(t, l.Close())
		t.Chdir("/")
		require.NoError(t, os.Chmod(filepath.Join(root, name), 0o640))
		require.NoError(t, os.Lchown(filepath.Join(root, name), 7, 8))
		require.NoError(t, os.Chtimes(filepath.Join(root, name), oddTime, oddTime))
	},
}

// TestReplace: everything can be replaced by everything, and what comes of it is the latter, with owner, mode and time. Directories alone
// are merged (spec APP-4, APP-6, APP-8, quirk Q60, scenario S-32, fault 44).
func TestReplace(t *testing.T) {
	need.Root(t)
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "base", "", tree.File("unrelated", "x")) // what the overlay can start from
		for kind, create := range kinds {
			m.commit(t, kind, "", func(root string) { create(t, root, "x") })
		}
		for was := range kinds {
			for is := range kinds {
				name := was + "-" + is
				m.merge(t, name, snapshot.Diff{Upper: "base"}, snapshot.Diff{Upper: was}, snapshot.Diff{Upper: is})
				want, got := m.read(t, is), m.read(t, name)
				delete(got, "unrelated")
				require.Empty(t, tree.Diff(want, got), name)
				// Below, in the snapshot that it starts from.
				m.merge(t, "below-"+name, snapshot.Diff{Upper: was}, snapshot.Diff{Upper: is})
				require.Empty(t, tree.Diff(want, m.read(t, "below-"+name)), name)
			}
		}
	})
}

// TestReplacedDirectory: a directory that takes the place of something hides what the base has below that place (spec APP-4, fault 37), whether
// that was deleted, or a file in between.
func TestReplacedDirectory(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("d/old", "old"), tree.File("e/old", "old"))
		m.commit(t, "no-d", "a", func(root string) { require.NoError(t, os.RemoveAll(filepath.Join(root, "d"))) })
		m.layer(t, "file-e", "", tree.File("e", "a file"))
		m.layer(t, "again", "", tree.File("d/new", "new"), tree.File("e/new", "new"))
		m.merge(t, "merged", snapshot.Diff{Upper: "a"}, snapshot.Diff{Upper: "file-e"}, snapshot.Diff{Lower: "a", Upper: "no-d"}, snapshot.Diff{Upper: "again"})
		require.ElementsMatch(t, []string{"d", "d/new", "e", "e/new"}, paths(m.read(t, "merged")))
		// And in a layer on top of it.
		m.layer(t, "child", "merged", tree.File("d/more", ""))
		require.ElementsMatch(t, []string{"d", "d/new", "d/more", "e", "e/new"}, paths(m.read(t, "child")))
	})
}

func paths(tr tree.Tree) (out []string) {
	for path := range tr {
		out = append(out, path)
	}
	return out
}

// TestDelete: deleting leaves nothing, whatever it was, of an earlier layer or of the base; the directories above come to be
// (spec APP-3, DIF-4). Names swap places (fault 37).
func TestDelete(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("d/e/f", "x"), tree.File("d/g", "x"), tree.Symlink("l", "d"), tree.File("a", "a"), tree.File("b", "b"))
		m.commit(t, "less", "a", func(root string) {
			for _, p := range []string{"d/e", "l", "d/g"} {
				require.NoError(t, os.RemoveAll(filepath.Join(root, p)))
			}
			require.NoError(t, os.Rename(filepath.Join(root, "a"), filepath.Join(root, "c")))
			require.NoError(t, os.Rename(filepath.Join(root, "b"), filepath.Join(root, "a")))
			require.NoError(t, os.Rename(filepath.Join(root, "c"), filepath.Join(root, "b")))
		})
		less := snapshot.Diff{Lower: "a", Upper: "less"}
		m.merge(t, "chain", snapshot.Diff{Upper: "a"}, less)
		m.layer(t, "other", "", tree.File("other", ""))
		m.merge(t, "applied", snapshot.Diff{Upper: "other"}, snapshot.Diff{Upper: "a"}, less)
		m.merge(t, "twice", snapshot.Diff{Upper: "a"}, snapshot.Diff{Upper: "other"}, less, less)
		for _, name := range []string{"chain", "applied", "twice"} {
			got := m.read(t, name)
			delete(got, "other")
			require.Empty(t, tree.Diff(m.read(t, "less"), got, tree.Times), name)
		}
		m.merge(t, "alone", snapshot.Diff{Upper: "other"}, less)
		require.ElementsMatch(t, []string{"a", "b", "d", "other"}, paths(m.read(t, "alone")))
		// Everything of a tree.
		m.merge(t, "nothing", snapshot.Diff{Upper: "a"}, snapshot.Diff{Lower: "a"})
		require.Empty(t, m.read(t, "nothing"))
		m.merge(t, "empty")
		require.Empty(t, m.read(t, "empty"))
	})
}

// TestTimes: the times of everything are kept to the nanosecond, of directories too, though they are filled later; a directory that became
// a link does not give its time to what the link leads to (spec APP-8, scenario S-32).
func TestTimes(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		times := map[string]time.Time{}
		stamp := func(root string, names ...string) {
			for i, name := range names {
				at := oddTime.Add(time.Duration(len(times)+i) * time.Hour)
				ts := unix.NsecToTimespec(at.UnixNano())
				require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
				times[name] = at
			}
		}
		m.commit(t, "a", "", func(root string) {
			require.NoError(t, tree.Write(root, tree.File("d/e/f", "x"), tree.Symlink("d/l", "e"), tree.Dir("goes/below")))
			stamp(root, "d/e/f", "d/l", "d/e", "d", "goes/below", "goes")
		})
		m.commit(t, "b", "", func(root string) {
			require.NoError(t, tree.Write(root, tree.File("d/e/g", "x"), tree.Symlink("goes", "d")))
			stamp(root, "d/e/g", "goes", "d/e", "d")
		})
		delete(times, "goes/below")
		m.merge(t, "merged", snapshot.Diff{Upper: "a"}, snapshot.Diff{Upper: "b"})
		m.look(t, "merged", func(root string) {
			for name, at := range times {
				fi, err := os.Lstat(filepath.Join(root, name))
				require.NoError(t, err)
				require.Equal(t, at.UnixNano(), fi.ModTime().UnixNano(), name)
			}
		})
	})
}

// capability is a file capability as the kernel stores it (cap_net_raw, permitted and effective).
var capability = string([]byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})

// TestXattrs: extended attributes are kept, file capabilities survive the change of owner, and what overlayfs notes for itself is not taken
// over (spec APP-6, APP-7, quirk Q61, fault 37).
func TestXattrs(t *testing.T) {
	need.Root(t)
	onAll(t, func(t *testing.T, m *merger) {
		m.commit(t, "a", "", func(root string) {
			require.NoError(t, tree.Write(root, tree.File("d/f", "x", tree.Owner(1, 2), tree.Mode(0o755|os.ModeSetuid), tree.Xattr("security.capability", capability)),
				tree.Dir("d", tree.Owner(3, 4), tree.Mode(0o755|os.ModeSetgid|os.ModeSticky))))
			for _, path := range []string{"d", "d/f"} {
				for _, attr := range []string{"user.kept", "trusted.kept", "trusted.overlay.origin", "trusted.overlay.impure", "user.overlay.origin"} {
					require.NoError(t, unix.Setxattr(filepath.Join(root, path), attr, []byte("v"), 0))
				}
			}
		})
		m.layer(t, "b", "", tree.File("b", ""))
		m.merge(t, "merged", snapshot.Diff{Upper: "b"}, snapshot.Diff{Upper: "a"})
		got := m.read(t, "merged")
		require.Equal(t, capability, got["d/f"].Xattrs["security.capability"])
		require.Equal(t, os.FileMode(0o755|os.ModeSetuid), got["d/f"].Mode)
		require.Equal(t, os.FileMode(0o755|os.ModeSetgid|os.ModeSticky), got["d"].Mode)
		require.Equal(t, 3, got["d"].UID)
		m.inside(t, "merged", func(root string) {
			for _, path := range []string{"d", "d/f"} {
				names := listXattrs(t, filepath.Join(root, path))
				require.Contains(t, names, "user.kept")
				require.Contains(t, names, "trusted.kept")
				if path == "d" || m.last().Linked == 0 { // a hard link is the file itself
					for _, attr := range names {
						require.NotContains(t, attr, "overlay.", path)
					}
				}
			}
		})
	})
}

// inside shows the topmost directory that a committed snapshot consists of.
func (m *merger) inside(t *testing.T, name string, do func(dir string)) {
	t.Helper()
	m.serial++
	key := fmt.Sprintf("%s-inside-%d", name, m.serial)
	mounts, err := m.backend.View(m.ctx, key, name)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.backend.Remove(m.ctx, key)) }()
	do(topDir(t, mounts))
}

func listXattrs(t *testing.T, path string) []string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	require.NoError(t, err)
	var names []string
	for start, i := 0, 0; i < n; i++ {
		if buf[i] == 0 {
			names = append(names, string(buf[start:i]))
			start = i + 1
		}
	}
	return names
}

// TestHardLinks: files with several names keep them, and one that is overridden leaves the others alone (spec APP-5, DIF-6, scenario S-32).
func TestHardLinks(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("a", "x"), tree.Hardlink("d/b", "a"), tree.Hardlink("d/c", "a"))
		m.layer(t, "b", "", tree.File("d/b", "other"))
		m.merge(t, "linked", snapshot.Diff{Upper: "b"}, snapshot.Diff{Upper: "a"})
		m.merge(t, "broken", snapshot.Diff{Upper: "a"}, snapshot.Diff{Upper: "b"})
		ino := func(root, name string) uint64 {
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(filepath.Join(root, name), &st))
			return st.Ino
		}
		m.look(t, "linked", func(root string) {
			require.Equal(t, ino(root, "a"), ino(root, "d/b"))
			require.Equal(t, ino(root, "a"), ino(root, "d/c"))
		})
		m.look(t, "broken", func(root string) {
			require.NotEqual(t, ino(root, "a"), ino(root, "d/b"))
			require.Equal(t, ino(root, "a"), ino(root, "d/c"))
			data, err := os.ReadFile(filepath.Join(root, "a"))
			require.NoError(t, err)
			require.Equal(t, "x", string(data))
		})
	})
}

// TestSourcesStay: whoever writes to a child of a merge, or changes modes there, changes neither the merge nor what it was made of (spec APP-10).
func TestSourcesStay(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("d/f", "original", tree.Time(oddTime)), tree.File("d/g", "g"))
		m.layer(t, "b", "", tree.Dir("d", tree.Mode(0o700)))
		before := m.read(t, "a")
		m.merge(t, "merged", snapshot.Diff{Upper: "b"}, snapshot.Diff{Upper: "a"})
		merged := m.read(t, "merged")
		m.commit(t, "child", "merged", func(root string) {
			require.NoError(t, os.WriteFile(filepath.Join(root, "d/f"), []byte("rewritten"), 0o600))
			require.NoError(t, os.Chmod(filepath.Join(root, "d/f"), 0o600))
			require.NoError(t, os.Remove(filepath.Join(root, "d/g")))
		})
		require.Equal(t, before, m.read(t, "a"))
		require.Equal(t, merged, m.read(t, "merged"))
		require.Equal(t, "rewritten", m.read(t, "child")["d/f"].Data)
	})
}

// TestSparse: holes stay holes when files are copied.
func TestSparse(t *testing.T) {
	m := newMerger(t, "native", openNative(t), &snapshot.Capabilities{})
	const size = 256 << 20
	m.commit(t, "a", "", func(root string) {
		f, err := os.Create(filepath.Join(root, "sparse"))
		require.NoError(t, err)
		for _, at := range []int64{0, 100 << 20, size - 5} {
			_, err = f.WriteAt([]byte("data!"), at)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		require.NoError(t, os.Truncate(filepath.Join(root, "sparse"), size+4096))
	})
	m.merge(t, "merged", snapshot.Diff{Upper: "a"})
	m.look(t, "merged", func(root string) {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(root, "sparse"), &st))
		require.EqualValues(t, size+4096, st.Size)
		require.Less(t, st.Blocks*512, int64(1<<20))
		f, err := os.Open(filepath.Join(root, "sparse"))
		require.NoError(t, err)
		defer f.Close()
		buf := make([]byte, 6)
		for at, want := range map[int64]string{0: "data!\x00", 100<<20 - 1: "\x00data!", size - 5: "data!\x00"} {
			_, err = f.ReadAt(buf, at)
			require.NoError(t, err)
			require.Equal(t, want, string(buf))
		}
	})
}

// TestLinkToTheHost: a base with a symbolic link to a directory of the host, and a layer with a directory of that name: the layer's files
// are there, even one that equals the host's, and the host's are as they were (quirk Q59, scenario S-32, fault 42).
func TestLinkToTheHost(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		host := t.TempDir()
		file := tree.File("f", "equal", tree.Time(oddTime))
		require.NoError(t, tree.Write(host, file, tree.File("g", "host")))
		before, err := tree.Read(host)
		require.NoError(t, err)
		m.layer(t, "base", "", tree.Symlink("d", host))
		m.commit(t, "layer", "base", func(root string) {
			require.NoError(t, os.Remove(filepath.Join(root, "d")))
			require.NoError(t, tree.Write(root, tree.File("d/f", "equal", tree.Time(oddTime))))
		})
		layer := snapshot.Diff{Lower: "base", Upper: "layer"}
		m.layer(t, "other", "", tree.Symlink("d", host), tree.File("other", ""))
		m.merge(t, "diff", layer)
		m.merge(t, "over", snapshot.Diff{Upper: "other"}, layer)
		for _, name := range []string{"diff", "over"} {
			got := m.read(t, name)
			delete(got, "other")
			require.ElementsMatch(t, []string{"d", "d/f"}, paths(got), name)
		}
		after, err := tree.Read(host)
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
}

// TestFifosAreNotOpened: a fifo that nobody writes to, on both sides of a comparison and merged, holds nothing up (fault 44).
func TestFifosAreNotOpened(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.Fifo("f", tree.Time(oddTime.Truncate(time.Second))), tree.File("x", "x"))
		m.layer(t, "b", "", tree.Fifo("f", tree.Time(oddTime.Truncate(time.Second))), tree.Fifo("x"))
		m.merge(t, "merged", snapshot.Diff{Lower: "a", Upper: "b"}, snapshot.Diff{Upper: "a"})
		require.ElementsMatch(t, []string{"f", "x"}, paths(m.read(t, "merged")))
	})
}
