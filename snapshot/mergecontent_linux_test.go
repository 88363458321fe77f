package snapshot_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// scene is a round with snapshots that tests name.
type scene struct {
	*round
	t *testing.T
}

func newScene(t *testing.T, r *mergeRig) *scene {
	t.Helper()
	x, err := r.begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.end()) })
	return &scene{x, t}
}

// layer commits a snapshot that fill has changed.
func (s *scene) layer(name, parent string, fill func(dir string)) {
	s.t.Helper()
	require.NoError(s.t, s.Prepare(s.ctx, name+"-active", parent))
	m, err := s.Mounts(s.ctx, name+"-active")
	require.NoError(s.t, err)
	require.NoError(s.t, mounted(m, func(dir string) error {
		fill(dir)
		return nil
	}))
	require.NoError(s.t, s.Commit(s.ctx, name, name+"-active"))
}

// entries commits a snapshot of entries that are not in the parent.
func (s *scene) entries(name, parent string, entries ...tree.Entry) {
	s.t.Helper()
	s.layer(name, parent, func(dir string) { testutil.WriteTree(s.t, dir, entries...) })
}

// merged merges and returns the tree.
func (s *scene) merged(name string, diffs ...snapshot.Diff) tree.Tree {
	s.t.Helper()
	require.NoError(s.t, s.Merge(s.ctx, name, diffs))
	require.NoError(s.t, s.openFiles())
	return s.tree(name)
}

func (s *scene) tree(name string) tree.Tree {
	s.t.Helper()
	got, err := s.read(name)
	require.NoError(s.t, err)
	return got
}

// is fails unless a tree is as declared; times and owners do not count.
func (s *scene) is(got tree.Tree, entries ...tree.Entry) {
	s.t.Helper()
	want := s.t.TempDir()
	testutil.WriteTree(s.t, want, entries...)
	testutil.DiffTree(s.t, testutil.ReadTree(s.t, want), got, tree.Times, tree.Owners, tree.Root)
}

func without(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		at := filepath.Join(dir, path)
		_, err := os.Lstat(at)
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(at))
	}
}

func up(upper string) snapshot.Diff             { return snapshot.Diff{Upper: upper} }
func between(lower, upper string) snapshot.Diff { return snapshot.Diff{Lower: lower, Upper: upper} }

// stampAt is a time that nothing else has.
func stampAt(n int64) tree.Opt { return tree.Time(time.Unix(1_000_000_000+n, 123456000+n)) }

// Deletions, overrides, directories replaced by files and back, repeated inputs, and differences on top of merges (spec MRG-1, APP-3, APP-4,
// APP-9; scenario S-32).
func TestMergeContent(t *testing.T) {
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		s.entries("base", "", tree.File("dir/sub/old", "old"), tree.File("dir/kept", "kept"), tree.File("gone", "gone"), tree.File("file", "file"),
			tree.Dir("empty", tree.Mode(0o700)), tree.File("again/old", "old"))
		s.layer("top", "base", func(dir string) {
			without(t, dir, "gone", "dir/sub", "file", "empty", "again")
			testutil.WriteTree(t, dir, tree.File("file/inside", "a directory now"), tree.File("empty", "a file now"), tree.File("again/new", "new"),
				tree.File("dir/deep/er/file", "deeper"))
		})
		s.entries("other", "", tree.File("dir/kept", "overridden", tree.Mode(0o600)), tree.File("dir/sub/other", "other"), tree.File("gone", "back"))
		top := []tree.Entry{
			tree.File("dir/kept", "kept"), tree.File("file/inside", "a directory now"), tree.File("empty", "a file now"),
			tree.File("again/new", "new"), tree.File("dir/deep/er/file", "deeper"),
		}
		s.is(s.merged("chain", up("base"), between("base", "top")), top...)
		s.is(s.merged("overridden", up("base"), between("base", "top"), up("other")),
			append([]tree.Entry{tree.File("dir/kept", "overridden", tree.Mode(0o600)), tree.File("dir/sub/other", "other"), tree.File("gone", "back")}, top[1:]...)...)
		s.is(s.merged("deleted", up("other"), between("base", "top")),
			tree.File("dir/kept", "overridden", tree.Mode(0o600)), top[1], top[2], top[3], top[4])
		s.is(s.merged("repeated", up("base"), between("base", "top"), up("other"), up("base"), between("base", "top")), top...)
		s.is(s.merged("back", up("top"), between("top", "base")), tree.File("dir/sub/old", "old"), tree.File("dir/kept", "kept"), tree.File("gone", "gone"),
			tree.File("file", "file"), tree.Dir("empty", tree.Mode(0o700)), tree.File("again/old", "old"))
		s.is(s.merged("of-merges", up("repeated"), between("repeated", "deleted")),
			tree.File("dir/kept", "overridden", tree.Mode(0o600)), top[1], top[2], top[3], top[4])
		s.layer("on-merge", "overridden", func(dir string) {
			without(t, dir, "file", "gone")
			testutil.WriteTree(t, dir, tree.File("added", "added"))
		})
		s.is(s.merged("diff-on-merge", up("other"), between("overridden", "on-merge")),
			tree.File("dir/kept", "overridden", tree.Mode(0o600)), tree.File("dir/sub/other", "other"), tree.File("added", "added"))
	})
}

// Times of files, directories and symbolic links are those of the last layer that has them, to the nanosecond (spec APP-8; scenario S-32).
func TestMergeTimes(t *testing.T) {
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		s.entries("one", "", tree.Dir("d", stampAt(1)), tree.Dir("d/e", stampAt(2)), tree.File("d/e/f", "one", stampAt(3)), tree.Symlink("d/l", "nowhere", stampAt(4)),
			tree.Fifo("d/p", stampAt(5)), tree.Dir("only", stampAt(6)), tree.File("only/f", "", stampAt(7)))
		s.entries("two", "", tree.Dir("d", stampAt(11)), tree.File("d/g", "two", stampAt(12)), tree.Symlink("d/l", "elsewhere", stampAt(13)))
		one, two := s.tree("one"), s.tree("two")
		got := s.merged("m", snapshot.Diff{}, up("one"), up("two"))
		for path, from := range map[string]tree.Tree{"d": two, "d/e": one, "d/e/f": one, "d/g": two, "d/l": two, "d/p": one, "only": one, "only/f": one} {
			require.Truef(t, got[path].ModTime.Equal(from[path].ModTime), "%s: %s instead of %s", path, got[path].ModTime, from[path].ModTime)
		}
		require.Equal(t, "elsewhere", got["d/l"].Target)
	})
}

// Names of one file stay so, unless one of them is overridden; links to nothing are not followed (spec DIF-6, APP-2, APP-5; scenario S-32).
func TestMergeLinks(t *testing.T) {
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		outside := filepath.Join(t.TempDir(), "outside")
		s.entries("one", "", tree.File("a", "linked"), tree.Hardlink("b", "a"), tree.Hardlink("d/c", "a"), tree.Symlink("l", "nowhere/at/all"),
			tree.Hardlink("m", "l"), tree.Symlink("out", outside), tree.Symlink("up", "../../../.."))
		s.entries("two", "", tree.File("a", "another"), tree.File("out/inside", "not through the link"), tree.File("up/inside", "not up there"))
		s.is(s.merged("m", snapshot.Diff{}, up("one"), up("two")), tree.File("a", "another"), tree.File("b", "linked"), tree.Hardlink("d/c", "b"),
			tree.Symlink("l", "nowhere/at/all"), tree.Hardlink("m", "l"), tree.File("out/inside", "not through the link"), tree.File("up/inside", "not up there"))
		require.NoFileExists(t, outside)
		s.is(s.merged("other-way", snapshot.Diff{}, up("two"), up("one")), tree.File("a", "linked"), tree.Hardlink("b", "a"), tree.Hardlink("d/c", "a"),
			tree.Symlink("l", "nowhere/at/all"), tree.Hardlink("m", "l"), tree.Symlink("out", outside), tree.Symlink("up", "../../../.."))
	})
}

// Everything becomes anything else, devices and sockets included (spec APP-4; quirk Q60; scenario S-32).
func TestMergeTypes(t *testing.T) {
	kinds := map[string]func(path string) []tree.Entry{
		"file": func(p string) []tree.Entry { return []tree.Entry{tree.File(p, "file")} },
		"dir": func(p string) []tree.Entry {
			return []tree.Entry{tree.Dir(p, tree.Mode(0o711)), tree.File(p+"/f", "in it")}
		},
		"symlink": func(p string) []tree.Entry { return []tree.Entry{tree.Symlink(p, ".")} },
		"fifo":    func(p string) []tree.Entry { return []tree.Entry{tree.Fifo(p)} },
		"socket":  func(p string) []tree.Entry { return []tree.Entry{tree.Socket(p)} },
		"char":    func(p string) []tree.Entry { return []tree.Entry{tree.Char(p, 1, 3)} },
		"block":   func(p string) []tree.Entry { return []tree.Entry{tree.Block(p, 7, 1)} },
		"nothing": func(string) []tree.Entry { return nil },
	}
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		var before, after []tree.Entry
		var paths []string
		for from, makeFrom := range kinds {
			for to, makeTo := range kinds {
				if !r.features.Devices && strings.Contains("char block", from) || !r.features.Devices && strings.Contains("char block", to) {
					continue
				}
				path := from + "-to-" + to
				before, after = append(before, makeFrom(path)...), append(after, makeTo(path)...)
				if from != "nothing" {
					paths = append(paths, path)
				}
			}
		}
		s.entries("before", "", before...)
		s.layer("after", "before", func(dir string) {
			without(t, dir, paths...)
			testutil.WriteTree(t, dir, after...)
		})
		s.is(s.merged("chain", up("before"), between("before", "after")), after...)
		s.is(s.merged("applied", snapshot.Diff{}, up("before"), between("before", "after")), after...)
		s.is(s.merged("back", snapshot.Diff{}, up("after"), between("after", "before")), before...)
	})
}

// File capabilities survive the change of the owner, which drops them if it comes later, and setuid bits as well (spec APP-6; fault 37;
// scenario S-32).
func TestMergeCapabilities(t *testing.T) {
	const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		if len(r.features.Owners) == 0 {
			t.Skip("needs root to change owners")
		}
		s := newScene(t, r)
		entries := []tree.Entry{
			tree.File("ping", "x", tree.Owner(7, 8), tree.Xattr("security.capability", netRaw)),
			tree.File("su", "x", tree.Owner(8, 7), tree.Mode(0o755|fs.ModeSetuid|fs.ModeSetgid)),
		}
		s.entries("plain", "", tree.File("ping", "x"), tree.File("su", "x"))
		s.entries("one", "", entries...)
		got := s.merged("m", snapshot.Diff{}, up("plain"), up("one"))
		require.Equal(t, netRaw, got["ping"].Xattrs["security.capability"])
		require.Equal(t, [2]int{7, 8}, [2]int{got["ping"].UID, got["ping"].GID})
		require.Equal(t, 0o755|fs.ModeSetuid|fs.ModeSetgid, got["su"].Mode)
		s.layer("chowned", "one", func(dir string) {
			require.NoError(t, os.Lchown(filepath.Join(dir, "ping"), 3, 3))
			require.NoError(t, unix.Lsetxattr(filepath.Join(dir, "ping"), "security.capability", []byte(netRaw), 0))
		})
		got = s.merged("m2", snapshot.Diff{}, up("one"), between("one", "chowned"))
		require.Equal(t, netRaw, got["ping"].Xattrs["security.capability"])
		require.Equal(t, 3, got["ping"].UID)
	})
}

// A file that the base seems to have when its links are followed on the host is still a change (quirk Q59; spec APP-2, OVL-3; scenario S-32).
func TestMergeBaseWithLinkToTheHost(t *testing.T) {
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		host := t.TempDir()
		testutil.WriteTree(t, host, tree.File("same", "same", stampAt(1)), tree.File("other", "other"))
		s.entries("base", "", tree.Symlink("dir", host))
		s.layer("top", "base", func(dir string) {
			without(t, dir, "dir")
			testutil.WriteTree(t, dir, tree.File("dir/same", "same", stampAt(1)), tree.File("dir/new", "new"))
		})
		s.is(s.merged("m", snapshot.Diff{}, between("base", "top")), tree.File("dir/same", "same"), tree.File("dir/new", "new"))
		require.FileExists(t, filepath.Join(host, "other"))
	})
}

// A path may be nearly as long as the kernel takes, and a sparse file stays sparse (spec APP-6; fault 36).
func TestMergeDeepAndSparse(t *testing.T) {
	const depth, size = 17, 64 << 20 // snapshotters themselves cannot commit longer paths
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		s.layer("one", "", func(dir string) {
			f, err := os.Create(filepath.Join(dir, "sparse"))
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("end"), size)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			eachDeep(t, dir, depth, func(fd int, name string) { require.NoError(t, unix.Mkdirat(fd, name, 0o755)) })
		})
		s.entries("two", "", tree.File("file", "file"))
		require.NoError(t, s.Merge(s.ctx, "m", []snapshot.Diff{up("two"), up("one")}))
		m, err := s.View(s.ctx, "v", "m")
		require.NoError(t, err)
		require.NoError(t, mounted(m, func(dir string) error {
			eachDeep(t, dir, depth, func(int, string) {})
			info, err := os.Lstat(filepath.Join(dir, "sparse"))
			require.NoError(t, err)
			require.Equal(t, int64(size+3), info.Size())
			stat, ok := info.Sys().(*syscall.Stat_t)
			require.True(t, ok)
			require.Less(t, stat.Blocks*512, int64(1<<20), "the hole was filled")
			return nil
		}))
	})
}

// eachDeep goes down a path of long names; make may make the directory before it is entered.
func eachDeep(t *testing.T, dir string, depth int, makeDir func(fd int, name string)) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	for i := range depth {
		name := fmt.Sprintf("%d%s", i, strings.Repeat("x", 200))
		makeDir(fd, name)
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		require.NoError(t, unix.Close(fd))
		require.NoError(t, err)
		fd = next
	}
	require.NoError(t, unix.Close(fd))
}

// What a merge takes up is what it has made: two inodes with hard links, six without (spec MRG-6; scenario S-33).
func TestMergeUsageNumbers(t *testing.T) {
	onEachFilesystem(t, func(t *testing.T, r *mergeRig) {
		s := newScene(t, r)
		for i, entries := range [][]tree.Entry{{tree.File("foo/1", "a")}, {tree.File("foo/2", "aa")}, {tree.File("foo/3", "aaa"), tree.File("bar", "")}} {
			s.entries(fmt.Sprint(i), "", entries...)
		}
		require.NoError(t, s.Merge(s.ctx, "m", []snapshot.Diff{{}, up("0"), up("1"), up("2")}))
		got, err := s.Usage(s.ctx, "m")
		require.NoError(t, err)
		// The same counted by looking: a file with one name in this snapshot and another in its source is not the merge's.
		var inodes, size int64
		m, err := s.View(s.ctx, "v", "m")
		require.NoError(t, err)
		require.NoError(t, mounted(m, func(dir string) error {
			return filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
				require.NoError(t, err)
				info, err := d.Info()
				require.NoError(t, err)
				stat, ok := info.Sys().(*syscall.Stat_t)
				require.True(t, ok)
				if !d.IsDir() && r.caps.HardlinkMerge {
					require.Equal(t, uint64(2), uint64(stat.Nlink))
					return nil
				}
				inodes, size = inodes+1, size+stat.Blocks*512
				return nil
			})
		}))
		want := int64(6)
		if r.caps.HardlinkMerge {
			want = 2
		}
		require.Equal(t, want, inodes)
		require.Equal(t, inodes, got.Inodes)
		require.Equal(t, size, got.Size)
	})
}
