package differ_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

var (
	odd   = time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	whole = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
)

// histories plays random histories and calls check for each of their layers.
func histories(t *testing.T, overlay bool, check func(t *rapid.T, s *stacks, lower, upper int)) {
	history.Configure(t, 25)
	features := history.Probe(t, t.TempDir())
	rapid.Check(t, func(rt *rapid.T) {
		h := history.Generate(rt, features)
		s := newStacks(t, overlay)
		for i, step := range h {
			if step.Diffs != nil { // merges are not for this
				step = history.Step{Parent: i}
			}
			require.NoError(rt, s.add(step, nil))
			check(rt, s, step.Parent, i+1)
		}
	})
}

// The archive of each layer of random histories is containerd's, byte for byte: that of its double walk of plain directories
// (spec DIF-4, DIF-6, DIF-7; fault 36).
func TestArchiveOfDirectories(t *testing.T) {
	histories(t, false, func(rt *rapid.T, s *stacks, lower, upper int) {
		below := ""
		if lower > 0 {
			below = s.at(lower)
		}
		requireArchive(rt, containerd(t, below, s.at(upper)), plainArchive(t, compareAny, s.mounts(lower), s.mounts(upper)))
	})
}

// The same with overlays, whose layers are told from the mounts: containerd walks them mounted (spec OVL-1, OVL-2, OVL-3, OVL-4).
func TestArchiveOfOverlays(t *testing.T) {
	need.Overlay(t)
	histories(t, true, func(rt *rapid.T, s *stacks, lower, upper int) {
		var want []byte
		require.NoError(rt, mount.WithTempMount(t.Context(), s.mounts(lower), func(l string) error {
			return mount.WithTempMount(t.Context(), s.mounts(upper), func(u string) error {
				want = containerd(t, l, u)
				return nil
			})
		}))
		requireArchive(rt, want, plainArchive(t, compareUpper, s.mounts(lower), s.mounts(upper)))
		requireArchive(rt, want, plainArchive(t, compareAny, s.mounts(lower), s.mounts(upper)), "read as any mounts")
	})
}

// oddTree is a pair of trees.
type oddTree struct {
	root         bool
	lower, upper []tree.Entry
	then         func(t *testing.T, upper string)
}

func oddTrees() map[string]oddTree {
	long := "a-long-name-of-one-hundred-and-twenty-bytes/"
	for len(long) < 240 {
		long += "directory/"
	}
	return map[string]oddTree{
		"nothing": {},
		"long names": {
			lower: []tree.Entry{tree.File(long+"gone", "x"), tree.File(long+"kept", "x", tree.Time(odd))},
			upper: []tree.Entry{tree.File(long+"kept", "x", tree.Time(odd)), tree.File(long+"new", "x"), tree.Symlink("s", long+long)},
		},
		"long deletions alone": {lower: []tree.Entry{tree.File(long+"gone", "x")}, upper: []tree.Entry{tree.Dir(long)}},
		"times": {upper: []tree.Entry{
			tree.File("old", "x", tree.Time(time.Unix(-5, 5))), tree.File("future", "x", tree.Time(time.Unix(1<<33, 999999999))),
			tree.File("zero", "x", tree.Time(time.Unix(0, 0))), tree.Dir("d", tree.Time(odd)), tree.Symlink("s", "x", tree.Time(odd)),
		}},
		"modes": {upper: []tree.Entry{
			tree.File("setuid", "x", tree.Mode(0o755|os.ModeSetuid|os.ModeSetgid)), tree.Dir("sticky", tree.Mode(0o777|os.ModeSticky)), tree.Fifo("f"),
		}},
		"sizes": {upper: []tree.Entry{
			tree.File("0", ""), tree.File("512", string(make([]byte, 512))), tree.File("buffer", string(make([]byte, 256<<10))),
			tree.File("buffer and one", string(make([]byte, 256<<10+1))), tree.File("large", string(make([]byte, 3<<20-1))),
		}},
		"sockets": {
			lower: []tree.Entry{tree.Dir("d/e"), tree.File("replaced", ""), tree.Socket("gone"), tree.Dir("f")},
			upper: []tree.Entry{tree.Dir("d/e"), tree.Socket("d/e/s"), tree.Socket("replaced"), tree.Dir("f"), tree.Socket("f/a"), tree.File("f/b", "")},
		},
		"reserved names": {upper: []tree.Entry{tree.File(".wh.x", "x"), tree.File("d/.wh..wh..opq", "")}},
		"a new name of a file that was there": {
			lower: []tree.Entry{tree.File("a/b/c", "x", tree.Time(odd)), tree.File("e", "x", tree.Time(odd)), tree.Hardlink("g/z", "e"), tree.Dir("s")},
			upper: []tree.Entry{
				tree.File("a/b/c", "x", tree.Time(odd)), tree.Hardlink("a/b/d", "a/b/c"), tree.Hardlink("z", "a/b/c"), // z is last
				tree.File("e", "x", tree.Time(odd)), tree.Hardlink("f", "e"), tree.Hardlink("g/z", "e"), tree.Dir("s"), tree.Hardlink("s/x", "e"),
			},
		},
		"a file of three names that changed": {
			lower: []tree.Entry{tree.File("a", "x"), tree.Hardlink("b/c", "a"), tree.Hardlink("d", "a")},
			upper: []tree.Entry{tree.File("a", "yy"), tree.Hardlink("b/c", "a"), tree.Hardlink("d", "a")},
		},
		"names far from one another": {
			lower: []tree.Entry{tree.File("a/x", "x", tree.Time(odd)), tree.File("b/c/x", "x", tree.Time(odd)), tree.File("b/y", "", tree.Time(odd)), tree.Dir("d")},
			upper: []tree.Entry{
				tree.File("a/x", "x", tree.Time(odd)), tree.File("b/c/x", "x", tree.Time(odd)), tree.File("b/y", "", tree.Time(odd)), tree.Dir("d"),
				tree.Hardlink("d/1", "b/c/x"), tree.Hardlink("d/2", "b/y"), tree.Hardlink("e", "a/x"),
			},
		},
		"a new name of a symbolic link": {
			lower: []tree.Entry{tree.Symlink("a", "x", tree.Time(odd))},
			upper: []tree.Entry{tree.Symlink("a", "x", tree.Time(odd))},
			then: func(t *testing.T, upper string) {
				require.NoError(t, os.Link(filepath.Join(upper, "a"), filepath.Join(upper, "b")))
			},
		},
		"capabilities": {
			root:  true,
			lower: []tree.Entry{tree.File("d/f", "x", tree.Time(odd), capability)},
			upper: []tree.Entry{
				tree.File("d/f", "x", tree.Time(odd), capability), tree.Hardlink("d/g", "d/f"), tree.File("e", "", capability), tree.File("h", "x", capability),
				tree.File("z", "x", tree.Xattr("user.not", "packed")),
			},
			then: func(t *testing.T, upper string) {
				require.NoError(t, unix.Setxattr(filepath.Join(upper, "d"), "security.capability", []byte(capabilityValue), 0))
			},
		},
		"devices and owners": {root: true, upper: []tree.Entry{
			tree.Char("c", 1, 3), tree.Block("b", 300, 70000), tree.Char("mark", 0, 0), tree.File("u", "x", tree.Owner(4294967294, 3000000)),
		}},
	}
}

// What random histories have not got: names and numbers at the limits of the format, links to files that were there, sockets in directories that
// are not listed otherwise (spec DIF-6, DIF-7).
func TestArchiveOfOddTrees(t *testing.T) {
	for name, test := range oddTrees() {
		t.Run(name, func(t *testing.T) {
			if test.root {
				need.Root(t)
			}
			lower, upper := write(t, test.lower...), write(t, test.upper...)
			if test.then != nil {
				test.then(t, upper)
			}
			requireArchive(t, containerd(t, lower, upper), plainArchive(t, compareAny, bind(lower), bind(upper)))
			requireArchive(t, containerd(t, "", upper), plainArchive(t, compareAny, nil, bind(upper)), "without a lower tree")
			requireArchive(t, containerd(t, upper, lower), plainArchive(t, compareAny, bind(upper), bind(lower)), "the other way round")
			epoch := whole.Add(-time.Hour)
			requireArchive(t, containerd(t, lower, upper, archive.WithSourceDateEpoch(&epoch)),
				plainArchive(t, compareAny, bind(lower), bind(upper), diff.WithSourceDateEpoch(&epoch)), "with an epoch")
		})
	}
}

var (
	capabilityValue = string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	capability      = tree.Xattr("security.capability", capabilityValue)
)
