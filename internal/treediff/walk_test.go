//go:build linux

package treediff_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

var (
	odd   = time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	whole = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
)

// write makes a directory with entries.
func write(t *testing.T, entries ...tree.Entry) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	return dir
}

func plain(dirs ...string) treediff.Layers { return treediff.Layers{Dirs: dirs} }

func stack(dirs ...string) treediff.Layers {
	return treediff.Layers{Dirs: dirs, Marks: treediff.Trusted}
}

// changes lists the difference: "kind path", and "= path" after another name of a file.
func changes(t *testing.T, lower, upper treediff.Layers) (out []string) {
	t.Helper()
	require.NoError(t, treediff.Walk(t.Context(), lower, upper, func(i treediff.Item) error {
		s := i.Kind.String() + " " + i.Path
		if i.Link != "" {
			s += " = " + i.Link
		}
		out = append(out, s)
		return nil
	}))
	return out
}

// TestOrder: names in order, directories before what is in them, and never the root (spec DIF-3, DIF-4).
func TestOrder(t *testing.T) {
	lower := write(t, tree.File("b/gone", "x"), tree.File("b/kept", "x", tree.Time(odd)), tree.Dir("c/d/e"), tree.File("c/d/e/f", "x"))
	upper := write(t, tree.File("b/kept", "x", tree.Time(odd)), tree.File("a/x", "x"), tree.File("b.c", "x"), tree.Dir("c/d/e"))
	require.NoError(t, os.Chmod(upper, 0o711))
	require.Equal(t, []string{
		"add a", "add a/x",
		"modify b", "delete b/gone",
		"add b.c",
		"modify c", "modify c/d", "modify c/d/e", "delete c/d/e/f",
	}, changes(t, plain(lower), plain(upper)))
	require.Equal(t, []string{"delete b", "delete c"}, changes(t, plain(lower), plain()))
	require.Empty(t, changes(t, plain(), plain()))
	require.Empty(t, changes(t, plain(upper), plain(upper)))
}

// TestLinks: another name of a file that has been seen says so; deletions never take part (spec DIF-6).
func TestLinks(t *testing.T) {
	upper := write(t, tree.File("a", "x"), tree.Hardlink("b/c", "a"), tree.Hardlink("d", "a"), tree.Symlink("s", "a"), tree.File("z", "z"))
	require.NoError(t, os.Link(filepath.Join(upper, "s"), filepath.Join(upper, "t")))
	elsewhere := filepath.Join(t.TempDir(), "z")
	require.NoError(t, os.Link(filepath.Join(upper, "z"), elsewhere), "a link from outside means nothing")
	require.Equal(t, []string{"add a", "add b", "add b/c = a", "add d = a", "add s", "add t = s", "add z"}, changes(t, plain(), plain(upper)))

	lower := write(t, tree.File("a", "x"), tree.Hardlink("b", "a"))
	require.Equal(t, []string{"delete a", "delete b"}, changes(t, plain(lower), plain()))
}

// TestLinksToWhatWasThere: the names that a file had before are reported with a new one, with the directories that they are in; so are all names of a file
// that changed. Where nothing of a file is new, nothing is reported, nor is a name that lies in another tree (spec DIF-6).
func TestLinksToWhatWasThere(t *testing.T) {
	old := []tree.Entry{
		tree.File("a/b/c", "x", tree.Time(odd)), tree.Hardlink("a/b/d", "a/b/c"), tree.File("e/f", "y", tree.Time(odd)), tree.Hardlink("e/g", "e/f"), tree.Dir("m"),
	}
	lower := write(t, old...)
	require.Empty(t, changes(t, plain(lower), plain(write(t, old...))))
	upper := write(t, append(old, tree.Hardlink("m/n", "a/b/c"), tree.Hardlink("z", "a/b/c"))...)
	require.Equal(t, []string{
		"modify m", "add m/n", "modify a", "modify a/b", "unchanged a/b/c = m/n", "unchanged a/b/d = m/n", "add z = m/n",
	}, changes(t, plain(lower), plain(upper)))
	upper = write(t, append(old, tree.Hardlink("a/b/_", "a/b/c"), tree.Hardlink("e/_", "e/f"))...)
	require.Equal(t, []string{
		"modify a", "modify a/b", "add a/b/_", "unchanged a/b/c = a/b/_", "unchanged a/b/d = a/b/_",
		"modify e", "add e/_", "unchanged e/f = e/_", "unchanged e/g = e/_",
	}, changes(t, plain(lower), plain(upper)))
	require.Equal(t, []string{"modify a", "modify a/b", "delete a/b/_", "modify e", "delete e/_"}, changes(t, plain(upper), plain(lower)))

	// What a late directory and a late name are can still be asked.
	lower = write(t, tree.Dir("d", tree.Mode(0o711)), tree.File("d/x", "x", tree.Time(odd)))
	upper = write(t, tree.Dir("d", tree.Mode(0o711)), tree.File("d/x", "x", tree.Time(odd)), tree.Hardlink("e", "d/x"))
	var modes []string
	require.NoError(t, treediff.Walk(t.Context(), plain(lower), plain(upper), func(i treediff.Item) error {
		st, err := i.Stat()
		require.NoError(t, err)
		capability, err := i.Capability()
		require.NoError(t, err)
		require.Empty(t, capability)
		modes = append(modes, fmt.Sprintf("%s %o %d", i.Path, st.Mode, st.Size*int64(i.Type&unix.S_IFREG/unix.S_IFREG)))
		return nil
	}))
	require.Equal(t, []string{"e 100644 1", "d 40711 0", "d/x 100644 1"}, modes)
}

// TestSockets: archives have none, so a directory is not listed for one; what it replaced stays. Its deletion is one (spec DIF-4).
func TestSockets(t *testing.T) {
	lower := write(t, tree.Dir("d"), tree.File("f", ""), tree.Dir("g/h"))
	upper := write(t, tree.Dir("d"), tree.Socket("d/s"), tree.Socket("f"), tree.Dir("g/h"), tree.Socket("g/h/a"), tree.File("g/h/b", ""))
	require.Equal(t, []string{"modify g", "modify g/h", "add g/h/b"}, changes(t, plain(lower), plain(upper)))
	require.Equal(t, []string{"modify d", "delete d/s", "modify f", "modify g", "modify g/h", "delete g/h/a", "delete g/h/b"}, changes(t, plain(upper), plain(lower)))
}

// TestEqual: what makes two files equal (spec DIF-7).
func TestEqual(t *testing.T) {
	for name, test := range map[string]struct {
		lower, upper tree.Entry
		equal        bool
	}{
		"all":                    {tree.File("f", "x", tree.Time(odd)), tree.File("f", "x", tree.Time(odd)), true},
		"mode":                   {tree.File("f", "x", tree.Time(odd)), tree.File("f", "x", tree.Time(odd), tree.Mode(0o600)), false},
		"setuid":                 {tree.File("f", "x", tree.Time(odd)), tree.File("f", "x", tree.Time(odd), tree.Mode(0o644|os.ModeSetuid)), false},
		"size":                   {tree.File("f", "x", tree.Time(odd)), tree.File("f", "xx", tree.Time(odd)), false},
		"time":                   {tree.File("f", "x", tree.Time(odd)), tree.File("f", "x", tree.Time(odd.Add(1))), false},
		"content, time is proof": {tree.File("f", "x", tree.Time(odd)), tree.File("f", "y", tree.Time(odd)), true},
		"content, time is none":  {tree.File("f", "x", tree.Time(whole)), tree.File("f", "y", tree.Time(whole)), false},
		"same content":           {tree.File("f", "x", tree.Time(whole)), tree.File("f", "x", tree.Time(whole)), true},
		"long content": {
			tree.File("f", strings.Repeat("x", 200000)+"y", tree.Time(whole)), tree.File("f", strings.Repeat("x", 200000)+"z", tree.Time(whole)), false,
		},
		"link":                 {tree.Symlink("f", "a", tree.Time(whole)), tree.Symlink("f", "b", tree.Time(whole)), false},
		"same link":            {tree.Symlink("f", "a", tree.Time(whole)), tree.Symlink("f", "a", tree.Time(whole)), true},
		"directory, time":      {tree.Dir("f", tree.Time(odd)), tree.Dir("f", tree.Time(whole)), true},
		"directory, mode":      {tree.Dir("f"), tree.Dir("f", tree.Mode(0o700)), false},
		"type":                 {tree.File("f", "", tree.Time(odd)), tree.Fifo("f", tree.Time(odd)), false},
		"fifo, never opened":   {tree.Fifo("f", tree.Time(whole)), tree.Fifo("f", tree.Time(whole)), true}, // fault 44
		"directory over file":  {tree.File("f", ""), tree.Dir("f"), false},
		"file over directory":  {tree.Dir("f"), tree.File("f", ""), false},
		"link over directory":  {tree.Dir("f"), tree.Symlink("f", "f"), false},
		"directory over link":  {tree.Symlink("f", "/"), tree.Dir("f"), false},
		"nothing, file, equal": {tree.Dir("f"), tree.Dir("f"), true},
	} {
		t.Run(name, func(t *testing.T) {
			got := changes(t, plain(write(t, test.lower)), plain(write(t, test.upper)))
			if test.equal {
				require.Empty(t, got)
			} else {
				require.Equal(t, []string{"modify f"}, got)
			}
		})
	}
}

// TestEqualAsRoot: owner, device number and file capability count as well (spec DIF-7).
func TestEqualAsRoot(t *testing.T) {
	need.Root(t)
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for name, test := range map[string][2]tree.Entry{
		"user":       {tree.File("f", "", tree.Time(odd)), tree.File("f", "", tree.Time(odd), tree.Owner(1, 0))},
		"group":      {tree.Dir("f"), tree.Dir("f", tree.Owner(0, 1))},
		"device":     {tree.Char("f", 1, 3, tree.Time(odd)), tree.Char("f", 1, 5, tree.Time(odd))},
		"kind":       {tree.Char("f", 1, 3, tree.Time(odd)), tree.Block("f", 1, 3, tree.Time(odd))},
		"capability": {tree.File("f", "", tree.Time(odd)), tree.File("f", "", tree.Time(odd), tree.Xattr("security.capability", capability))},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, []string{"modify f"}, changes(t, plain(write(t, test[0])), plain(write(t, test[1]))))
		})
	}
}

// mark makes whiteouts in a layer.
func mark(t *testing.T, layer string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(layer, p)), 0o755))
		require.NoError(t, unix.Mknod(filepath.Join(layer, p), unix.S_IFCHR, 0))
	}
}

func opaque(t *testing.T, layer, path string) {
	t.Helper()
	require.NoError(t, unix.Setxattr(filepath.Join(layer, path), "trusted.overlay.opaque", []byte("y"), 0))
}

// TestOverlay: the upper directory of an overlay against what lies below it (spec OVL-3).
func TestOverlay(t *testing.T) {
	need.Root(t)
	bottom := write(t, tree.File("same", "x", tree.Time(odd)), tree.File("changed", "x"), tree.File("gone", "x"), tree.File("dir/a", "a"),
		tree.File("was-file", "x"), tree.File("untouched/file", "x"), tree.File("twice/x", "x"))
	middle := write(t, tree.File("dir/b", "b"), tree.File("dir/c", "c"))
	mark(t, middle, "twice")
	upper := write(t, tree.File("same", "x", tree.Time(odd)), tree.File("changed", "yy"), tree.File("new", "x"), tree.File("dir/d", "d"),
		tree.File("was-file/x", "x"))
	mark(t, upper, "gone", "never-was", "dir/b", "twice", "was-file/nothing", "untouched/never-was")
	require.Equal(t, []string{
		"modify changed", "modify dir", "delete dir/b", "add dir/d", "delete gone", "add new", "modify was-file", "add was-file/x",
	}, changes(t, stack(middle, bottom), stack(upper, middle, bottom)))
	// Two layers at once, as no reader of a mounted overlay could tell them apart.
	require.Equal(t, []string{
		"modify changed", "modify dir", "add dir/c", "add dir/d", "delete gone", "add new", "delete twice", "modify was-file", "add was-file/x",
	}, changes(t, stack(bottom), stack(upper, middle, bottom)))
	// And back again.
	require.Equal(t, []string{
		"modify changed", "modify dir", "delete dir/c", "delete dir/d", "add gone", "delete new", "add twice", "add twice/x", "modify was-file",
	}, changes(t, stack(upper, middle, bottom), stack(bottom)))
}

// TestOpaque: a directory that hides what lies below it yields what it has, and the deletions (spec OVL-4, OVL-5; spec APP-9).
func TestOpaque(t *testing.T) {
	need.Root(t)
	base := write(t, tree.File("d/gone", "x"), tree.File("d/kept", "x", tree.Time(odd)), tree.File("d/sub/gone", "x"), tree.Dir("d/deleted"), tree.File("e/x", "x"))
	upper := write(t, tree.File("d/kept", "x", tree.Time(odd)), tree.File("d/new", "x"), tree.File("d/sub/new", "x"), tree.Dir("e"), tree.Dir("fresh"))
	mark(t, upper, "d/deleted")
	opaque(t, upper, "d")
	opaque(t, upper, "fresh")
	require.Equal(t, []string{
		"modify d", "delete d/deleted", "delete d/gone", "add d/new", "modify d/sub", "delete d/sub/gone", "add d/sub/new", "add fresh",
	}, changes(t, stack(base), stack(upper, base)))

	// An overlay mounted with userxattr does not know the attribute, and has its own.
	user := func(dirs ...string) treediff.Layers { return treediff.Layers{Dirs: dirs, Marks: treediff.User} }
	require.NotContains(t, changes(t, user(base), user(upper, base)), "delete d/gone")
	require.NoError(t, unix.Setxattr(filepath.Join(upper, "d"), "user.overlay.opaque", []byte("y"), 0))
	require.Contains(t, changes(t, user(base), user(upper, base)), "delete d/gone")
}

// TestRedirect: a directory that shows the content of another one is refused, however it says so (spec OVL-3, quirk Q62).
func TestRedirect(t *testing.T) {
	need.Root(t)
	for _, attr := range []string{"trusted.overlay.redirect", "user.overlay.redirect"} {
		base, upper := write(t, tree.File("old/x", "x")), write(t, tree.Dir("new"))
		need.Xattr(t, upper)
		require.NoError(t, unix.Setxattr(filepath.Join(upper, "new"), attr, []byte("/old"), 0))
		for _, lower := range []treediff.Layers{stack(base), plain()} {
			err := treediff.Walk(t.Context(), lower, stack(append([]string{upper}, lower.Dirs...)...), func(treediff.Item) error { return nil })
			require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
			require.ErrorContains(t, err, attr)
		}
		require.Equal(t, []string{"add new"}, changes(t, plain(), plain(upper)), "in a plain directory it is an attribute like any other")
	}
}

// TestNotADirectoryBelow: where the base has a file, a directory of the layer is new, and marks in it mean nothing (spec OVL-3, quirk Q62).
func TestNotADirectoryBelow(t *testing.T) {
	need.Root(t)
	base := write(t, tree.File("a", "file"), tree.Symlink("b", "nowhere"))
	upper := write(t, tree.File("a/x", "x"), tree.File("b/c/d", "x"))
	mark(t, upper, "a/y", "b/c/e")
	opaque(t, upper, "a")
	opaque(t, upper, "b/c")
	require.Equal(t, []string{"modify a", "add a/x", "modify b", "add b/c", "add b/c/d"}, changes(t, stack(base), stack(upper, base)))
}

// TestLinkOfTheBase: a symbolic link of the base is not followed, to the host least of all (quirk Q59, spec APP-2, fault 42). With the
// reference a file of the layer that equals the host's was dropped.
func TestLinkOfTheBase(t *testing.T) {
	need.Root(t)
	host := write(t, tree.File("file", "secret", tree.Time(odd)), tree.File("other", "x"))
	base := write(t, tree.Symlink("dir", host))
	upper := write(t, tree.File("dir/file", "secret", tree.Time(odd)))
	mark(t, upper, "dir/other")
	require.Equal(t, []string{"modify dir", "add dir/file"}, changes(t, stack(base), stack(upper, base)))
	require.Equal(t, []string{"modify dir", "add dir/file", "add dir/other"}, changes(t, plain(base), plain(upper)), "a device is one where there are no marks")
}

// TestSources: a file is found where it lies, in the topmost layer that has it (spec DIF-5).
func TestSources(t *testing.T) {
	need.Root(t)
	bottom, top := write(t, tree.File("d/a", "a"), tree.File("d/b", "bottom")), write(t, tree.File("d/b", "top"))
	err := treediff.Walk(t.Context(), plain(), stack(top, bottom), func(i treediff.Item) error {
		if i.Sub != nil {
			return nil
		}
		dirfd, name := i.At()
		dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dirfd))
		require.NoError(t, err)
		require.Equal(t, map[string]string{"d/a": bottom, "d/b": top}[i.Path], filepath.Dir(dir))
		require.Equal(t, filepath.Base(i.Path), name)
		return nil
	})
	require.NoError(t, err)
}

// TestCancel: a walk ends with its context, and an error of the callback is its result (spec OVL-6).
func TestCancel(t *testing.T) {
	dir := write(t, tree.File("a", ""), tree.File("b", ""), tree.File("c/d", ""))
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := treediff.Walk(ctx, plain(), plain(dir), func(treediff.Item) error {
		n++
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, n)

	require.ErrorIs(t, treediff.Walk(t.Context(), plain(), plain(dir), func(treediff.Item) error { return os.ErrClosed }), os.ErrClosed)
	require.ErrorIs(t, treediff.Walk(t.Context(), plain(dir), plain(dir+"/none"), nil), os.ErrNotExist)
}

// TestDescriptors: all that is opened is closed, however deep the tree and whatever ends the walk.
func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	deep := dir
	for range 300 {
		deep += "/d"
		require.NoError(t, os.Mkdir(deep, 0o755))
	}
	before := openFiles(t)
	require.Len(t, changes(t, plain(), plain(dir)), 300)
	stop := os.ErrClosed
	require.ErrorIs(t, treediff.Walk(t.Context(), plain(), plain(dir), func(i treediff.Item) error {
		if strings.Count(i.Path, "/") == 200 {
			return stop
		}
		return nil
	}), stop)
	require.Equal(t, before, openFiles(t))
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}
