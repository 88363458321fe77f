package differ_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// untouched keeps a history from writing through one name of a file that has several, which breaks the set on an overlay: it becomes two files
// there. For an overlay, a further name is such a write, too, if the file is in a lower layer.
func untouched(dir string, op history.Op) bool {
	for _, p := range []string{op.Path, op.To} {
		linked := false
		_ = filepath.WalkDir(filepath.Join(dir, filepath.FromSlash(p)), func(path string, _ os.DirEntry, err error) error {
			var st unix.Stat_t
			if err == nil && unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
				linked = true
			}
			return nil // what is not there is not linked
		})
		if linked && op.Do != history.Remove {
			return false
		}
	}
	return true
}

// sameTimes sets the times of all directories: those that the kernel gives them are the moment's.
func sameTimes(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chtimes(path, whole, whole)
	})
}

// Layers of histories without writes through one name of several are the same bytes on overlays and in plain directories, with the times set.
func TestSameOnOverlaysAndDirectories(t *testing.T) { // spec DIF-6, OVL-3, OVL-4; fault 36
	need.Overlay(t)
	history.Configure(t, 25)
	features := history.Probe(t, t.TempDir())
	rapid.Check(t, func(rt *rapid.T) {
		h := history.Generate(rt, features)
		plain, overlay := newStacks(t, false), newStacks(t, true)
		for i, step := range h {
			if step.Diffs != nil {
				step = history.Step{Parent: i}
			}
			var allowed []history.Op // as decided in the plain directory
			require.NoError(rt, plain.add(step, func(dir string, op history.Op) bool {
				ok := untouched(dir, op)
				if ok {
					allowed = append(allowed, op)
				} else {
					allowed = append(allowed, history.Op{Do: history.Remove, Path: "nothing at all"})
				}
				return ok
			}))
			step.Ops = allowed
			require.NoError(rt, overlay.add(step, nil))
			n := i + 1
			require.NoError(rt, sameTimes(plain.at(n)))
			require.NoError(rt, sameTimes(overlay.at(n)))
			requireArchive(rt, plainArchive(t, compareAny, plain.mounts(step.Parent), plain.mounts(n)),
				plainArchive(t, compareUpper, overlay.mounts(step.Parent), overlay.mounts(n)), "layer ", n)
		}
	})
}

func overlayMount(options ...string) []mount.Mount {
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}

// What is an overlay and what is below its topmost layer, and what is not: then nothing is written (spec OVL-1, OVL-2).
func TestNotOverlay(t *testing.T) {
	a, b, c := write(t, tree.File("a", "")), write(t, tree.File("b", "")), write(t, tree.File("c", ""))
	ab, abc := overlayMount("lowerdir="+b+":"+a), overlayMount("lowerdir="+c+":"+b+":"+a)
	short := filepath.Join(t.TempDir(), "short")
	require.NoError(t, os.Symlink(a, short))
	for name, test := range map[string]struct {
		lower, upper []mount.Mount
		root, ok     bool
	}{
		"base":                   {nil, bind(a), false, true},
		"second":                 {bind(a), ab, true, true},
		"third":                  {ab, abc, true, true},
		"active":                 {ab, overlayMount("workdir=/w", "upperdir="+c, "index=off", "redirect_dir=off", "lowerdir="+b+":"+a), true, true},
		"userxattr":              {bind(a), overlayMount("userxattr", "lowerdir="+b+":"+a), false, true},
		"a short name":           {bind(a), overlayMount("lowerdir=" + b + ":" + short), true, true},
		"nothing":                {},
		"no upper":               {bind(a), nil, false, false},
		"base is an overlay":     {nil, ab, false, false},
		"base of another type":   {nil, []mount.Mount{{Type: "tmpfs"}}, false, false},
		"two directories":        {bind(a), bind(b), false, false},
		"two layers more":        {bind(a), abc, false, false},
		"the same":               {ab, ab, false, false},
		"other layers":           {bind(c), ab, false, false},
		"the other way round":    {ab, bind(a), false, false},
		"unknown option":         {bind(a), overlayMount("metacopy=on", "lowerdir="+b+":"+a), false, false},
		"unknown option below":   {overlayMount("volatile", "lowerdir="+b+":"+a), abc, false, false},
		"lower of another type":  {[]mount.Mount{{Type: "tmpfs"}}, ab, false, false},
		"several mounts":         {bind(a), append(slices.Clone(ab), ab...), false, false},
		"several lower mounts":   {append(bind(a), bind(a)...), ab, false, false},
		"mounted somewhere":      {nil, []mount.Mount{{Type: "bind", Source: a, Target: "x"}}, false, false},
		"owners that are mapped": {nil, []mount.Mount{{Type: "bind", Source: a, Options: []string{"uidmap=0:1:1"}}}, false, false},
		"no directories":         {bind(a), overlayMount("index=off"), false, false},
		"data-only directories":  {bind(a), overlayMount("lowerdir=" + b + "::" + a), false, false},
		"of another snapshotter": {bind(a), []mount.Mount{{Type: "fuse3.fuse-overlayfs", Options: ab[0].Options}}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if test.root {
				need.Mount(t) // others do not see the attributes
			}
			cs := newStore(t)
			opens := 0
			h := &hooked{Store: cs, wrap: func(w content.Writer) content.Writer { opens++; return w }}
			desc, err := differ.New(h).CompareUpper(t.Context(), test.lower, test.upper)
			if test.ok {
				require.NoError(t, err)
				require.Equal(t, 1, opens)
				return
			}
			require.ErrorIs(t, err, differ.ErrNotOverlay)
			require.True(t, errdefs.IsFailedPrecondition(err))
			require.Empty(t, desc)
			require.Zero(t, opens)
		})
	}
}

// Nothing of what an overlay notes for itself leaves it, nor any other attribute but capabilities; a directory that shows another one's content is
// refused, also at the bottom; marks where there is nothing to hide mean nothing (spec OVL-3; quirks Q61, Q62).
func TestOverlaysOwn(t *testing.T) {
	need.Mount(t)
	base := write(t, tree.File("file", "x"), tree.File("d/x", "x"))
	upper := write(t, tree.File("file/x", "x"), tree.Dir("d"), tree.File("d/y", "y"), tree.Char("gone", 0, 0), tree.Char("file/gone", 0, 0))
	for _, attr := range []string{"trusted.overlay.origin", "trusted.overlay.impure", "user.overlay.origin", "trusted.other", "user.any"} {
		require.NoError(t, unix.Setxattr(filepath.Join(upper, "d"), attr, []byte("y"), 0))
		require.NoError(t, unix.Setxattr(filepath.Join(upper, "d/y"), attr, []byte("y"), 0))
	}
	require.NoError(t, unix.Setxattr(filepath.Join(upper, "d"), "trusted.overlay.opaque", []byte("y"), 0))
	mounts := overlayMount("lowerdir=" + upper + ":" + base)
	data := plainArchive(t, compareUpper, bind(base), mounts)
	require.NotContains(t, string(data), "SCHILY")
	for _, want := range []string{`"d/.wh.x"`, `"d/y"`, `"file/"`, `"file/x"`} {
		require.Contains(t, list(t, data), want)
	}
	require.NotContains(t, list(t, data), "gone")
	require.NotContains(t, list(t, plainArchive(t, compareUpper, nil, bind(upper))), "gone")

	for _, attr := range []string{"trusted.overlay.redirect", "user.overlay.redirect"} {
		moved := write(t, tree.File("moved/x", "x"))
		require.NoError(t, unix.Setxattr(filepath.Join(moved, "moved"), attr, []byte("/d"), 0))
		cs := newStore(t)
		for _, m := range [][2][]mount.Mount{{bind(base), overlayMount("lowerdir=" + moved + ":" + base)}, {nil, bind(moved)}} {
			_, err := differ.New(cs).CompareUpper(t.Context(), m[0], m[1])
			require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
			require.NotErrorIs(t, err, differ.ErrNotOverlay)
			noUploads(t, cs)
		}
	}
}

// A file of the layer is in the archive although the base has a link there, over which a file of the host equals it (quirk Q59, fault 42).
func TestHostIsNotLookedAt(t *testing.T) {
	need.Mount(t)
	host := write(t, tree.File("file", "secret", tree.Time(odd)))
	base := write(t, tree.Symlink("dir", host))
	upper := write(t, tree.File("dir/file", "secret", tree.Time(odd)))
	for _, c := range []func(*differ.Differ) compare{compareUpper, compareAny} {
		data := plainArchive(t, c, bind(base), overlayMount("lowerdir="+upper+":"+base))
		require.Contains(t, list(t, data), `"dir/file"`)
	}
}

// Mounts that cannot be read where they lie are mounted for the time of the call, and unmounted whatever becomes of it.
func TestMountedForTheCall(t *testing.T) {
	need.Overlay(t)
	base, layer := write(t, tree.File("a", "x"), tree.File("gone", "x")), write(t, tree.File("b", "x"), tree.Char("gone", 0, 0))
	other := write(t, tree.File("a", "x"))
	upper := overlayMount("xino=off", "index=off", "lowerdir="+layer+":"+base)
	lower := []mount.Mount{{Type: "bind", Source: other, Options: []string{"rbind", "ro"}}, {Type: "bind", Source: base, Options: []string{"rbind", "ro"}}}
	tmp := t.TempDir() // other tests mount, too
	t.Setenv("TMPDIR", tmp)
	want := plainArchive(t, compareUpper, bind(base), overlayMount("lowerdir="+layer+":"+base))
	requireArchive(t, want, plainArchive(t, compareAny, lower, upper))
	requireUnmounted(t, tmp)

	cs := newStore(t)
	written, closed := 0, 0
	h := &hooked{Store: cs, wrap: func(w content.Writer) content.Writer { return &writer{w, "commit", &written, &closed} }}
	_, err := differ.New(h).Compare(t.Context(), lower, upper)
	require.ErrorIs(t, err, errDisk)
	_, err = differ.New(cs).Compare(t.Context(), lower, []mount.Mount{{Type: "no such filesystem"}})
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = differ.New(cs).Compare(ctx, lower, upper)
	require.ErrorIs(t, err, context.Canceled)
	requireUnmounted(t, tmp)
	noUploads(t, cs)
}

// requireUnmounted requires that nothing is left in the directory for mounts, neither mounted nor else.
func requireUnmounted(t *testing.T, dir string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	require.NoError(t, err)
	require.Empty(t, mounts)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Without the privilege to mount, directories are packed, and what would have to be mounted is refused as such (design 6b).
func TestUnprivileged(t *testing.T) {
	need.Unprivileged(t)
	cs := newStore(t)
	desc, err := differ.New(cs).Compare(t.Context(), nil, bind(sample(t)))
	require.NoError(t, err)
	require.NotEmpty(t, readBlob(t, cs, desc))
	dir := t.TempDir()
	marked := overlayMount("lowerdir=" + dir + ":" + t.TempDir())
	_, err = differ.New(cs).Compare(t.Context(), nil, marked)
	require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
	_, err = differ.New(cs).CompareUpper(t.Context(), bind(dir), marked)
	require.ErrorIs(t, err, differ.ErrNotOverlay)
}

// Cancelled at any time, a call leaves no upload and no goroutine, and the next one with its reference succeeds (spec BLOB-6, OVL-6; faults 6, 13).
func TestCancelled(t *testing.T) {
	dir := write(t, tree.File("noise", noise(4<<20)), tree.File("z", "z"))
	var want digest.Digest
	cs := newStore(t)
	for _, ref := range []string{"", "record"} {
		for n := range 8 {
			ctx, cancel := context.WithCancel(t.Context())
			left := n
			h := &hooked{Store: cs, wrap: func(w content.Writer) content.Writer {
				return &watched{w, func() {
					if left--; left < 0 {
						cancel()
					}
				}}
			}}
			desc, err := differ.New(h).Compare(ctx, nil, bind(dir), diff.WithReference(ref))
			cancel()
			if err == nil { // it was over by then
				require.NoError(t, cs.Delete(t.Context(), desc.Digest))
			} else {
				require.ErrorIs(t, err, context.Canceled)
			}
			if ref == "" {
				noUploads(t, cs)
			}
		}
		desc, err := differ.New(cs).Compare(t.Context(), nil, bind(dir), diff.WithReference(ref))
		require.NoError(t, err)
		if want == "" {
			want = desc.Digest
		}
		require.Equal(t, want, desc.Digest)
		noUploads(t, cs)
	}
}

type watched struct {
	content.Writer
	called func()
}

func (w *watched) Write(p []byte) (int, error) {
	w.called()
	return w.Writer.Write(p)
}
