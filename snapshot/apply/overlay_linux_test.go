package apply_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// overlay is an overlay with one lower layer.
type overlay struct {
	lower, upper, work string
	options            []string
}

func newOverlay(t *testing.T, base []tree.Entry, options ...string) *overlay {
	t.Helper()
	root := t.TempDir()
	o := &overlay{filepath.Join(root, "lower"), filepath.Join(root, "upper"), filepath.Join(root, "work"), options}
	for _, dir := range []string{o.lower, o.upper, o.work} {
		require.NoError(t, os.Mkdir(dir, 0o755))
	}
	testutil.WriteTree(t, o.lower, base...)
	return o
}

func (o *overlay) mounts() []mount.Mount {
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append([]string{
		"lowerdir=" + o.lower, "upperdir=" + o.upper, "workdir=" + o.work,
	}, o.options...)}}
}

// asLower mounts what the upper directory makes of the lower one once it is a lower one itself, as in the next snapshot.
func (o *overlay) asLower() []mount.Mount {
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append([]string{"lowerdir=" + o.upper + ":" + o.lower}, o.options...)}}
}

// merged mounts the overlay for the time of fn.
func withMounts(t *testing.T, mounts []mount.Mount, fn func(dir string)) {
	t.Helper()
	lm := snapshot.LocalMounterWithMounts(mounts)
	dir, err := lm.Mount()
	require.NoError(t, err)
	defer func() { require.NoError(t, lm.Unmount()) }()
	fn(dir)
}

// checkTree compares what mounts hold with what a plain directory got from the same layer, and with what is wanted.
func checkTree(t *testing.T, c layerCase, archive []byte, mounts []mount.Mount) {
	t.Helper()
	plain := t.TempDir()
	testutil.WriteTree(t, plain, c.base...)
	applyBind(t, plain, archive)
	withMounts(t, mounts, func(dir string) {
		testutil.RequireTree(t, dir, c.want...)
		want, got := testutil.ReadTree(t, plain), testutil.ReadTree(t, dir)
		testutil.DiffTree(t, want, got, tree.Root, tree.Times)
		for _, e := range c.layer { // the times of what the layer brings are exact, of all else they are the moment's
			if w, ok := want[e.Path]; ok && w.Kind != tree.KindHardlink && !e.ModTime.IsZero() {
				require.Truef(t, got[e.Path].ModTime.Equal(w.ModTime), "%s: %v instead of %v", e.Path, got[e.Path].ModTime, w.ModTime)
			}
		}
	})
}

// TestLayersOnOverlay: on an overlay a layer makes the same tree as on a plain directory, be it written to the
// upper directory or through the mount (spec EXT-6, LM-1; design 6).
func TestLayersOnOverlay(t *testing.T) {
	need.Overlay(t)
	for _, c := range layerCases {
		t.Run(c.name, func(t *testing.T) {
			archive := pack(t, c.layer...)
			store := &blobs{}
			desc := store.put(zst(t, archive), layerType+"+zstd")
			applier := apply.New(store)

			t.Run("fresh", func(t *testing.T) {
				o := newOverlay(t, c.base)
				got, err := applier.Apply(t.Context(), desc, o.mounts())
				require.NoError(t, err)
				requireDiffID(t, archive, got)
				checkTree(t, c, archive, o.mounts())
				checkTree(t, c, archive, o.asLower())
			})
			t.Run("through the mount", func(t *testing.T) {
				o := newOverlay(t, c.base)
				withMounts(t, o.mounts(), func(dir string) {
					got, err := applier.Apply(t.Context(), desc, bind(dir))
					require.NoError(t, err)
					requireDiffID(t, archive, got)
				})
				checkTree(t, c, archive, o.asLower())
			})
			t.Run("detached", func(t *testing.T) {
				o := newOverlay(t, c.base)
				got, err := applier.ApplyDetached(t.Context(), desc, o.upper)
				if c.parent {
					require.ErrorIs(t, err, snapshot.ErrNeedsParent)
					return
				}
				require.NoError(t, err)
				requireDiffID(t, archive, got)
				checkTree(t, c, archive, o.asLower())
			})
			require.Zero(t, store.open)
		})
	}
}

// TestHostileOnOverlay: the verdicts on an overlay are those on a plain directory, whether the layer was tried detached, needed its
// parent, or went through a mount at once (fault 42, fault 43).
func TestHostileOnOverlay(t *testing.T) {
	need.Overlay(t)
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) {
			t.Run("fresh", func(t *testing.T) {
				c.run(t, func(t *testing.T, base []tree.Entry) []mount.Mount { return newOverlay(t, base).mounts() }, withMounts)
			})
			t.Run("through the mount", func(t *testing.T) {
				c.run(t, func(t *testing.T, base []tree.Entry) []mount.Mount {
					lm := snapshot.LocalMounterWithMounts(newOverlay(t, base).mounts())
					dir, err := lm.Mount()
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, lm.Unmount()) })
					return bind(dir)
				}, readPlain)
			})
		})
	}
}

// TestTakesWhatIsThere: an upper directory that is not empty is written to through the mount, and keeps what it has, even if
// the layer would need its parent; ApplyDetached refuses it.
func TestTakesWhatIsThere(t *testing.T) {
	need.Overlay(t)
	o := newOverlay(t, []tree.Entry{tree.File("low", "x"), tree.File("d/low", "x")})
	withMounts(t, o.mounts(), func(dir string) {
		testutil.WriteTree(t, dir, tree.File("mine", "y"), tree.File("d/mine", "y"))
	})
	store := &blobs{}
	desc := store.put(pack(t, tree.Whiteout("low"), tree.File("d/new", "z")), layerType)
	_, err := apply.New(store).ApplyDetached(t.Context(), desc, o.upper)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	_, err = apply.New(store).ApplyDetached(t.Context(), desc, filepath.Join(o.upper, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = apply.New(store).Apply(t.Context(), desc, o.mounts(), diff.WithSyncFs(true))
	require.NoError(t, err)
	withMounts(t, o.asLower(), func(dir string) {
		testutil.RequireTree(t, dir, tree.File("mine", "y"), tree.File("d/mine", "y"), tree.File("d/low", "x"), tree.File("d/new", "z"))
	})
}

// TestReadsAgain: a layer that turns out to need its parent is read once more, with Progress going on from where it was, and what
// had been written without the parent is gone (design 6).
func TestReadsAgain(t *testing.T) {
	need.Overlay(t)
	o := newOverlay(t, []tree.Entry{tree.Dir("d", tree.Mode(0o700)), tree.File("gone", "x")})
	store := &blobs{}
	archive := pack(t, tree.Whiteout("gone"), tree.File("big", mebibyte), tree.File("d/f", "y"))
	desc := store.put(archive, layerType)
	var seen []int64
	got, err := apply.New(store).Apply(t.Context(), desc, o.mounts(), diff.WithProgress(func(_ ocispecs.Descriptor, n int64) { seen = append(seen, n) }))
	require.NoError(t, err)
	requireDiffID(t, archive, got)
	require.IsNonDecreasing(t, seen)
	require.Equal(t, desc.Size, seen[len(seen)-1])
	withMounts(t, o.asLower(), func(dir string) {
		testutil.RequireTree(t, dir, tree.File("big", mebibyte), tree.Dir("d", tree.Mode(0o700)), tree.File("d/f", "y"))
	})
	require.Zero(t, store.open)
}
