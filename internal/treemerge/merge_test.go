//go:build linux

package treemerge

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

var odd = time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)

func write(t *testing.T, entries ...tree.Entry) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	return dir
}

func plain(dirs ...string) treediff.Layers { return treediff.Layers{Dirs: dirs} }

// open begins a merge into an empty directory, with system calls that a test may have replaced.
func open(t *testing.T, opt Options, change func(sys *system)) (*Merge, string) {
	t.Helper()
	sys := realSystem
	if change != nil {
		change(&sys)
	}
	opt.sys = &sys
	dir := t.TempDir()
	m, err := Open(Target{Dir: dir}, opt)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m, dir
}

func apply(t *testing.T, m *Merge, uppers ...string) {
	t.Helper()
	for _, upper := range uppers {
		require.NoError(t, m.Apply(t.Context(), plain(), plain(upper)))
	}
}

func read(t *testing.T, dir string) tree.Tree {
	t.Helper()
	got, err := tree.Read(dir)
	require.NoError(t, err)
	delete(got, ".")
	return got
}

// finish ends a merge and checks what it says that it takes up.
func finish(t *testing.T, m *Merge, dir string) Usage {
	t.Helper()
	u, err := m.Finish(t.Context())
	require.NoError(t, err)
	var want Usage
	want.Inodes, want.Size, err = tree.Occupied(dir)
	require.NoError(t, err)
	require.Equal(t, want, u)
	return u
}

// TestNoLinks: where a filesystem refuses links all is copied, files with several names once, and it is counted as what
// it is (spec APP-5, MRG-6, fault 40).
func TestNoLinks(t *testing.T) {
	calls := 0
	m, dir := open(t, Options{Link: true, Workers: 1}, func(sys *system) {
		link := sys.linkat
		sys.linkat = func(fromDir int, from string, toDir int, to string) error {
			var a, b unix.Stat_t
			require.NoError(t, unix.Fstat(fromDir, &a))
			require.NoError(t, unix.Fstatat(fromDir, from, &b, unix.AT_SYMLINK_NOFOLLOW))
			if calls++; calls == 1 {
				return unix.EXDEV // from the source; from then on only copies are linked
			}
			return link(fromDir, from, toDir, to)
		}
	})
	src := write(t, tree.File("a", "x", tree.Time(odd)), tree.Hardlink("d/b", "a"), tree.Hardlink("z", "a"), tree.File("f", "f", tree.Time(odd)), tree.Symlink("s", "a", tree.Time(odd)))
	require.NoError(t, os.Link(filepath.Join(src, "s"), filepath.Join(src, "s2")))
	apply(t, m, src)
	u := finish(t, m, dir)
	require.Empty(t, tree.Diff(read(t, src), read(t, dir)))
	require.EqualValues(t, 5, u.Inodes, "the root, d, a, f and s")
	st := m.Stats()
	require.ErrorIs(t, st.NoLink, unix.EXDEV)
	require.EqualValues(t, 3, st.Linked)
	require.EqualValues(t, 3, st.Copied+st.Cloned)
	require.Equal(t, 4, calls, "linking is tried once")
}

// TestFullFile: a file that can have no more names is copied, and what was linked before stays foreign (spec APP-5, MRG-7,
// quirk Q56, fault 40).
func TestFullFile(t *testing.T) {
	links := 0
	m, dir := open(t, Options{Link: true, Workers: 1}, func(sys *system) {
		link := sys.linkat
		sys.linkat = func(fromDir int, from string, toDir int, to string) error {
			if links++; links == 2 || links == 3 {
				return unix.EMLINK
			}
			return link(fromDir, from, toDir, to)
		}
	})
	src := write(t, tree.File("a", "x", tree.Time(odd)), tree.Hardlink("b", "a"), tree.Hardlink("c", "a"), tree.Hardlink("d", "a"))
	apply(t, m, src)
	u := finish(t, m, dir)
	// a: linked. b: full, copied. c: full, so linked to the copy. d: linked to the source again.
	require.EqualValues(t, 2, u.Inodes, "the root and the copy")
	for _, name := range []string{"a", "b", "c", "d"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, "x", string(data))
	}
	require.ErrorIs(t, m.Stats().NoLink, unix.EMLINK)
}

// TestFullCopy: a copy that can have no more names gets a sibling.
func TestFullCopy(t *testing.T) {
	m, dir := open(t, Options{Workers: 1}, func(sys *system) {
		sys.linkat = func(int, string, int, string) error { return unix.EMLINK }
	})
	apply(t, m, write(t, tree.File("a", "x"), tree.Hardlink("b", "a")))
	require.EqualValues(t, 3, finish(t, m, dir).Inodes)
}

// TestOtherErrors: an error of linking that says nothing about links fails the merge (spec APP-5), with the place.
func TestOtherErrors(t *testing.T) {
	m, _ := open(t, Options{Link: true}, func(sys *system) {
		sys.linkat = func(int, string, int, string) error { return unix.EIO }
	})
	err := m.Apply(t.Context(), plain(), plain(write(t, tree.File("d/e/f", "x"))))
	require.ErrorIs(t, err, unix.EIO)
	require.ErrorContains(t, err, "/d/e/f: ")
}

// TestCloneThenRangeThenCopy: sharing blocks is tried first; a filesystem that cannot do it is not asked again, a file with which it does not
// work does not count for others; then the kernel copies, and last we do.
func TestCloneThenRangeThenCopy(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 20000)
	entries := []tree.Entry{tree.File("a", big), tree.File("b", big), tree.File("c", "small"), tree.File("empty", "")}
	for name, test := range map[string]struct {
		clone, copyRange      error
		clones, ranges        int
		cloned, copied, bytes int64
	}{
		"clones":         {cloned: 3, copied: 1, clones: 3},
		"one by one":     {clone: unix.EINVAL, copyRange: unix.EINVAL, clones: 3, ranges: 2, copied: 4, bytes: 2*320000 + 5},
		"no clones":      {clone: unix.EOPNOTSUPP, clones: 1, ranges: 2, copied: 4, bytes: 2*320000 + 5},
		"nothing at all": {clone: unix.ENOTTY, copyRange: unix.ENOSYS, clones: 1, ranges: 1, copied: 4, bytes: 2*320000 + 5},
	} {
		t.Run(name, func(t *testing.T) {
			clones, ranges := 0, 0
			m, dir := open(t, Options{Workers: 1}, func(sys *system) {
				sys.clone = func(to, from int) error {
					clones++
					if test.clone != nil {
						return test.clone
					}
					buf := make([]byte, len(big)) // as the filesystem would
					n, err := unix.Pread(from, buf, 0)
					require.NoError(t, err)
					_, err = unix.Pwrite(to, buf[:n], 0)
					return err
				}
				inner := sys.copyFileRange
				sys.copyFileRange = func(from int, fromOff *int64, to int, toOff *int64, n int) (int, error) {
					ranges++
					if test.copyRange != nil {
						return -1, test.copyRange
					}
					return inner(from, fromOff, to, toOff, n)
				}
			})
			src := write(t, entries...)
			apply(t, m, src)
			finish(t, m, dir)
			require.Empty(t, tree.Diff(read(t, src), read(t, dir)))
			require.Equal(t, Stats{Cloned: test.cloned, Copied: test.copied, Bytes: test.bytes}, m.Stats())
			require.Equal(t, test.clones, clones)
			require.Equal(t, test.ranges, ranges)
		})
	}
	for name, change := range map[string]func(sys *system){
		"clone": func(sys *system) { sys.clone = func(int, int) error { return unix.EIO } },
		"range": func(sys *system) {
			sys.clone = func(int, int) error { return unix.ENOTTY }
			sys.copyFileRange = func(int, *int64, int, *int64, int) (int, error) { return -1, unix.ENOSPC }
		},
		"shrinking source": func(sys *system) {
			sys.clone = func(int, int) error { return unix.ENOTTY }
			sys.copyFileRange = func(int, *int64, int, *int64, int) (int, error) { return 0, nil }
		},
	} {
		m, _ := open(t, Options{}, change)
		require.Error(t, m.Apply(t.Context(), plain(), plain(write(t, entries...))), name)
	}
}

// TestCancelBetweenFiles: a context that ends stops a merge at the next file.
func TestCancelBetweenFiles(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	links := 0
	m, _ := open(t, Options{Link: true, Workers: 1}, func(sys *system) {
		link := sys.linkat
		sys.linkat = func(fromDir int, from string, toDir int, to string) error {
			if links++; links == 3 {
				cancel(os.ErrDeadlineExceeded)
			}
			return link(fromDir, from, toDir, to)
		}
	})
	src := write(t, tree.File("a", ""), tree.File("b", ""), tree.File("c", ""), tree.File("d", ""), tree.File("e/f", ""))
	require.ErrorIs(t, m.Apply(ctx, plain(), plain(src)), os.ErrDeadlineExceeded)
	require.Equal(t, 3, links)
	_, err := m.Finish(ctx)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// TestLinksAreNotFollowed: a symbolic link in the place of a directory is replaced, never followed, in the target and in the source
// (spec APP-2, quirk Q59, fault 42).
func TestLinksAreNotFollowed(t *testing.T) {
	for _, link := range []bool{true, false} {
		outside := write(t, tree.File("file", "precious", tree.Time(odd)), tree.Dir("sub"))
		before := read(t, outside)
		m, dir := open(t, Options{Link: link}, nil)
		apply(t, m, write(t, tree.Symlink("d", outside), tree.Symlink("e", outside+"/file"), tree.Symlink("up", "..")))
		apply(t, m, write(t, tree.File("d/file", "new"), tree.Dir("d/sub", tree.Mode(0o700)), tree.File("e", "new"), tree.File("up/x", "x")))
		apply(t, m, write(t, tree.Symlink("d", outside)))
		lower := write(t, tree.File("d/file", "precious"))
		require.NoError(t, m.Apply(t.Context(), plain(lower), plain()), "deletes d as a whole")
		finish(t, m, dir)
		require.Equal(t, before, read(t, outside))
		require.Equal(t, []string{"e", "up", "up/x"}, sorted(read(t, dir)))
	}
}

func sorted(tr tree.Tree) (out []string) {
	for _, name := range []string{"d", "d/file", "e", "up", "up/x"} {
		if _, ok := tr[name]; ok {
			out = append(out, name)
		}
	}
	return out
}

// TestClosedDirectories: directories that their owner cannot write to, or look into, are filled and come out with the mode they should
// have; without privileges, too (spec APP-6).
func TestClosedDirectories(t *testing.T) {
	for _, link := range []bool{true, false} {
		src := write(t, tree.File("d/e/f", "x"), tree.File("g/h", "x"))
		require.NoError(t, os.Chmod(filepath.Join(src, "d/e"), 0o555))
		require.NoError(t, os.Chmod(filepath.Join(src, "d"), 0o511))
		again := write(t, tree.File("d/e/more", "x"), tree.Dir("g", tree.Mode(0o500)))
		require.NoError(t, os.Chmod(filepath.Join(again, "d/e"), 0o555))
		m, dir := open(t, Options{Link: link}, nil)
		t.Cleanup(func() { // or an ordinary user could not remove them
			for _, root := range []string{src, again, dir} {
				for _, sub := range []string{"d", "d/e", "g"} {
					_ = os.Chmod(filepath.Join(root, sub), 0o755) // some have no such
				}
			}
		})
		apply(t, m, src, again)
		finish(t, m, dir)
		for path, mode := range map[string]os.FileMode{"d": 0o755, "d/e": 0o555, "g": 0o500} {
			fi, err := os.Stat(filepath.Join(dir, path))
			require.NoError(t, err)
			require.Equal(t, mode, fi.Mode().Perm(), path)
		}
	}
}

// TestDefaultACL: what is made in a directory with a default access control list has the lists of the source and none that
// it inherits (spec APP-7).
func TestDefaultACL(t *testing.T) {
	const entryUserObj, entryUser, entryGroupObj, entryMask, entryOther = 1, 2, 4, 16, 32
	acl := func(entries ...[3]uint32) string {
		b := []byte{2, 0, 0, 0}
		for _, e := range entries {
			b = append(b, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
		}
		return string(b)
	}
	const none = 0xffffffff
	list := acl([3]uint32{entryUserObj, 7, none}, [3]uint32{entryUser, 7, 0}, [3]uint32{entryGroupObj, 5, none}, [3]uint32{entryMask, 7, none}, [3]uint32{entryOther, 0, none})
	src := write(t, tree.Dir("d"), tree.File("d/f", "x"), tree.Dir("d/sub"), tree.Fifo("d/fifo"), tree.Symlink("d/link", "f"))
	if err := unix.Setxattr(filepath.Join(src, "d"), attrDefaultACL, []byte(list), 0); err != nil {
		t.Skipf("needs access control lists: %v", err)
	}
	require.NoError(t, unix.Setxattr(filepath.Join(src, "d/f"), attrAccessACL, []byte(list), 0))
	m, dir := open(t, Options{}, nil)
	apply(t, m, src)
	// Of another layer, that knows nothing of the list.
	apply(t, m, write(t, tree.Dir("d"), tree.File("d/g", "x", tree.Mode(0o640)), tree.Dir("d/h", tree.Mode(0o750))))
	finish(t, m, dir)
	for path, want := range map[string][2]bool{
		"d": {false, true}, "d/f": {true, false}, "d/sub": {}, "d/fifo": {}, "d/g": {}, "d/h": {},
	} {
		for i, attr := range []string{attrAccessACL, attrDefaultACL} {
			_, err := unix.Lgetxattr(filepath.Join(dir, path), attr, nil)
			require.Equal(t, want[i], err == nil, "%s of %s: %v", attr, path, err)
		}
	}
	got := read(t, dir)
	require.Equal(t, os.FileMode(0o640), got["d/g"].Mode)
	require.Equal(t, os.FileMode(0o750), got["d/h"].Mode)
}

// TestDeep: a tree that is deeper than a path can be long, merged and replaced, with all that was opened closed again.
func TestDeep(t *testing.T) {
	src := t.TempDir()
	const depth = 1500
	fd, err := unix.Open(src, openDir, 0)
	require.NoError(t, err)
	for range depth {
		require.NoError(t, unix.Mkdirat(fd, "directory", 0o755))
		next, err := unix.Openat(fd, "directory", openDir, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	require.NoError(t, unix.Close(fd))
	before := openFiles(t)
	dir := t.TempDir()
	m, err := Open(Target{Dir: dir}, Options{Link: true})
	require.NoError(t, err)
	apply(t, m, src)
	u, err := m.Finish(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, depth+1, u.Inodes)
	apply(t, m, write(t, tree.File("directory", "a file")))
	u, err = m.Finish(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, u.Inodes)
	m.Close()
	require.Equal(t, before, openFiles(t))
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// TestMarksShareAnInode: deletions in an overlay take over the source's marks as links, marks that are all one file included, and make
// their own where there is none; they are made only where the base has something, whatever hides that (spec APP-3, fault 37).
func TestMarksShareAnInode(t *testing.T) {
	need.Root(t)
	base := write(t, tree.File("a", "a"), tree.File("b", "b"), tree.File("d/c", "c"), tree.File("hidden/x", "x"), tree.File("file", "x"))
	middle := t.TempDir()
	require.NoError(t, unix.Mknod(filepath.Join(middle, "hidden"), unix.S_IFCHR, 0))
	lower := write(t, tree.File("a", "a"), tree.File("b", "b"), tree.File("d/c", "c"), tree.File("not-there", "x"), tree.File("hidden/x", "x"), tree.File("file/x", "x"))
	upper := t.TempDir()
	require.NoError(t, unix.Mknod(filepath.Join(upper, "a"), unix.S_IFCHR, 0))
	for _, name := range []string{"b", "not-there", "d/c", "hidden/x"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(upper, name)), 0o755))
		require.NoError(t, os.Link(filepath.Join(upper, "a"), filepath.Join(upper, name)))
	}
	require.NoError(t, os.Mkdir(filepath.Join(upper, "file"), 0o755))
	require.NoError(t, unix.Mknod(filepath.Join(upper, "file/x"), unix.S_IFCHR, 0))

	for _, link := range []bool{true, false} {
		dir := t.TempDir()
		m, err := Open(Target{Dir: dir, Overlay: true, Base: treediff.Layers{Dirs: []string{middle, base}, Marks: treediff.Trusted}}, Options{Link: link})
		require.NoError(t, err)
		t.Cleanup(m.Close)
		trusted := func(dirs ...string) treediff.Layers { return treediff.Layers{Dirs: dirs, Marks: treediff.Trusted} }
		require.NoError(t, m.Apply(t.Context(), trusted(lower), trusted(upper, lower)))
		u := finish(t, m, dir)
		require.Equal(t, map[bool]int64{true: 4, false: 7}[link], u.Inodes)
		var names []string
		for name, e := range read(t, dir) {
			if e.Kind == tree.KindChar || e.Kind == tree.KindHardlink {
				names = append(names, name)
			}
		}
		require.ElementsMatch(t, []string{"a", "b", "d/c"}, names)
	}
}
