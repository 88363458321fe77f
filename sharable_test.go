package cache_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/crash"
	"github.com/layercache/cache/testutil/need"
)

// mustMount mounts a mountable of a ref, and returns its only mount and the release.
func mustMount(t *testing.T, m snapshot.Mountable) (mount.Mount, func() error) {
	t.Helper()
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	require.Len(t, mounts, 1)
	return mounts[0], release
}

func mountable(t *testing.T, ref cache.Mountable, readonly bool) snapshot.Mountable {
	t.Helper()
	m, err := ref.Mount(ctx, readonly, nil)
	require.NoError(t, err)
	return m
}

// requirePool compares what is mounted in an environment's pool, and which directories are there.
func requirePool(t *testing.T, root string, want ...string) {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
	require.NoError(t, err)
	mounted := []string{}
	for _, info := range infos {
		mounted = append(mounted, info.Mountpoint)
	}
	require.ElementsMatch(t, want, mounted)
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	found := []string{}
	for _, e := range entries {
		found = append(found, filepath.Join(root, e.Name()))
	}
	require.ElementsMatch(t, want, found)
}

// overlayChild makes a mutable record with a parent on overlayfs; its snapshot takes an overlay.
func overlayChild(t *testing.T, opts ...testutil.Option) (*testutil.Env, cache.MutableRef) {
	t.Helper()
	env := testutil.New(t, append([]testutil.Option{testutil.Overlay()}, opts...)...)
	parent := finalized(t, env, nil, fileIn(t, "below", "lower"))
	mut := newMutable(t, env, parent)
	release(t, parent)
	return env, mut
}

func options(m mount.Mount, prefix string) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, prefix) })
}

// Spec SHM-1, SHM-2, MNT-5, drop-in contract 9: all mounts of a mutable ref are one in the pool; what one writes
// the others see at once, and a read-only one cannot write; with the last it is gone.
func TestSharedOverlay(t *testing.T) {
	env, mut := overlayChild(t)
	requirePool(t, env.Opt.MountPoolRoot)
	rw, ro := mountable(t, mut, false), mountable(t, mut, true)
	requirePool(t, env.Opt.MountPoolRoot)
	shared, releaseFirst := mustMount(t, ro)
	require.Equal(t, mount.Mount{Type: "bind", Source: shared.Source, Options: []string{"rbind", "ro"}}, shared)
	first, releaseSecond := mustMount(t, rw)
	require.Equal(t, mount.Mount{Type: "bind", Source: shared.Source, Options: []string{"rw", "rbind"}}, first)
	requirePool(t, env.Opt.MountPoolRoot, shared.Source)

	// As three containers would have it.
	var dirs []string
	var mounters []snapshot.Mounter
	for _, m := range []snapshot.Mountable{rw, mountable(t, mut, false), ro} {
		mounter := snapshot.LocalMounter(m, snapshot.ForceRemount())
		dir, err := mounter.Mount()
		require.NoError(t, err)
		dirs, mounters = append(dirs, dir), append(mounters, mounter)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dirs[0], "f"), []byte("one"), 0o600))
	require.NoError(t, os.Remove(filepath.Join(dirs[1], "below")))
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "f"))
		require.NoError(t, err)
		require.Equal(t, "one", string(data))
		require.NoFileExists(t, filepath.Join(dir, "below"))
	}
	require.ErrorContains(t, os.WriteFile(filepath.Join(dirs[2], "g"), nil, 0o600), "read-only file system")
	require.NoError(t, releaseFirst())
	require.NoError(t, releaseFirst())
	require.NoError(t, releaseSecond())
	for _, m := range mounters {
		requirePool(t, env.Opt.MountPoolRoot, shared.Source)
		require.NoError(t, m.Unmount())
	}
	requirePool(t, env.Opt.MountPoolRoot)
	release(t, mut)
}

// withIndex is a snapshotter whose overlays ask the kernel to insist on one writer per upper directory.
type withIndex struct{ snapshot.Snapshotter }

func (s withIndex) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	return indexed{m}, err
}

type indexed struct{ snapshot.Mountable }

func (m indexed) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := m.Mountable.Mount()
	for i, m := range mounts {
		if m.Type == "overlay" {
			mounts[i].Options = append(slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "index=") }), "index=on")
		}
	}
	return mounts, release, err
}

// Fault 39, quirk Q81: two mounts of a mutable ref, a read-only one, and one of the record committed
// meanwhile, with overlay's index=on, which refuses a second overlay.
func TestSharedOverlayWithIndex(t *testing.T) {
	env, mut := overlayChild(t, testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		opt.Snapshotter = withIndex{opt.Snapshotter}
	}))
	raw, err := env.Opt.Snapshotter.Mounts(ctx, mut.ID())
	require.NoError(t, err)
	writer := mountable(t, mut, false)
	_, done := mustMount(t, writer)
	_, err = snapshot.LocalMounter(raw).Mount()
	require.ErrorContains(t, err, "busy", "without sharing it does not work, or this test proves nothing")

	testutil.WithMount(t, mut, false, fileIn(t, "f", "one"))
	requireFile(t, mut, "f", "one")
	imm := commit(t, mut)
	requireFile(t, imm, "f", "one")
	require.NoError(t, done())
	requirePool(t, env.Opt.MountPoolRoot)
	requireFile(t, imm, "f", "one")
	release(t, imm)
}

// Quirk Q81, spec MNT-6, SHM-4: a committed record is read through the mount that is still being written to;
// when there is none, by the options of its overlay, which differs need.
func TestCommittedWhileMounted(t *testing.T) {
	env, mut := overlayChild(t)
	shared, done := mustMount(t, mountable(t, mut, false))
	imm := commit(t, mut)
	reader := mountable(t, imm, true)
	read, readDone := mustMount(t, reader)
	require.Equal(t, mount.Mount{Type: "bind", Source: shared.Source, Options: []string{"rbind", "ro"}}, read)
	require.NoError(t, done())
	requirePool(t, env.Opt.MountPoolRoot, shared.Source)
	require.NoError(t, os.WriteFile(filepath.Join(shared.Source, "f"), []byte("late"), 0o600))
	requireFile(t, imm, "f", "late")
	require.NoError(t, readDone())
	requirePool(t, env.Opt.MountPoolRoot)

	read, readDone = mustMount(t, reader)
	require.Equal(t, "overlay", read.Type)
	require.True(t, options(read, "lowerdir="))
	require.False(t, options(read, "upperdir="))
	require.NoError(t, readDone())
	requireFile(t, imm, "f", "late")
	release(t, imm)
}

// Spec MNT-7, SHM-4: a mount in use outlives Finalize; views are mounts of their own, with the options
// of their overlay; and nobody can begin to write to what is finalized.
func TestFinalizedWhileMounted(t *testing.T) {
	env, mut := overlayChild(t)
	writer := mountable(t, mut, false)
	shared, done := mustMount(t, writer)
	require.NoError(t, os.WriteFile(filepath.Join(shared.Source, "f"), []byte("data"), 0o600))
	imm := commit(t, mut)
	require.NoError(t, imm.Finalize(ctx))
	requirePool(t, env.Opt.MountPoolRoot, shared.Source)
	_, _, err := writer.Mount()
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	for _, readonly := range []bool{true, false} {
		view, viewDone := mustMount(t, mountable(t, imm, readonly))
		require.Equal(t, "overlay", view.Type)
		require.False(t, options(view, "upperdir="))
		require.NoError(t, viewDone())
	}
	require.NoError(t, done())
	requirePool(t, env.Opt.MountPoolRoot)
	requireFile(t, imm, "f", "data")
	_, _, err = writer.Mount()
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	release(t, imm)
}

// Spec SHM-2, MNT-7: a mount in use outlives its ref, and the manager.
func TestSharedMountOutlives(t *testing.T) {
	env := testutil.New(t, testutil.Overlay())
	parent := finalized(t, env, nil, nil)
	mut := newMutable(t, env, parent, cache.CachePolicyRetain)
	shared, done := mustMount(t, mountable(t, mut, false))
	release(t, mut)
	requirePool(t, env.Opt.MountPoolRoot, shared.Source)
	again, err := env.Manager.GetMutable(ctx, mut.ID())
	require.NoError(t, err)
	same, sameDone := mustMount(t, mountable(t, again, false))
	require.Equal(t, shared, same, "a second overlay would be wrong whoever holds the ref")
	release(t, again, parent)
	root := env.Opt.MountPoolRoot
	require.NoError(t, env.Close())
	requirePool(t, root, shared.Source)
	require.NoError(t, done())
	requirePool(t, root, shared.Source)
	require.NoError(t, sameDone())
	requirePool(t, root)
	env.Open()
}

// busyMount mounts, and opens a file there, so that unmounting fails.
func busyMount(t *testing.T, m snapshot.Mountable) (shared mount.Mount, done func() error, file *os.File) {
	t.Helper()
	shared, done = mustMount(t, m)
	file, err := os.Create(filepath.Join(shared.Source, "f"))
	require.NoError(t, err)
	require.ErrorContains(t, done(), "busy")
	return shared, done, file
}

// Spec SHM-2: a mount on which a file is open cannot be unmounted; it is there for the next, and the release can
// be tried again.
func TestBusySharedMount(t *testing.T) {
	env, mut := overlayChild(t)
	m := mountable(t, mut, false)
	shared, done, file := busyMount(t, m)
	requirePool(t, env.Opt.MountPoolRoot, shared.Source)
	same, sameDone := mustMount(t, m)
	require.Equal(t, shared, same)
	require.NoError(t, done())
	require.NoError(t, file.Close())
	require.NoError(t, sameDone())
	requirePool(t, env.Opt.MountPoolRoot)
	_, done = mustMount(t, m)
	require.NoError(t, done())
	release(t, mut)
}

// Spec SHM-2: what a failed release left goes with the ref.
func TestBusySharedMountGoesWithTheRef(t *testing.T) {
	env, mut := overlayChild(t)
	m := mountable(t, mut, false)
	_, done, file := busyMount(t, m)
	release(t, mut)
	requirePool(t, env.Opt.MountPoolRoot)
	require.NoError(t, done())
	_, err := file.WriteString("detached, not broken")
	require.NoError(t, err)
	require.NoError(t, file.Close())
	_, _, err = m.Mount()
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// Spec SHM-1, SHM-2: users of real mounts come and go at the same time.
func TestSharedOverlayRaces(t *testing.T) {
	env, mut := overlayChild(t)
	var eg errgroup.Group
	for worker := range 6 {
		eg.Go(func() error {
			for range 10 {
				m, err := mut.Mount(ctx, worker%3 == 0, nil)
				if err != nil {
					return err
				}
				mounter := snapshot.LocalMounter(m)
				dir, err := mounter.Mount()
				if err != nil {
					return err
				}
				if _, err := os.ReadFile(filepath.Join(dir, "below")); err != nil {
					return err
				}
				if err := mounter.Unmount(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, eg.Wait())
	requirePool(t, env.Opt.MountPoolRoot)
	release(t, mut)
}

// Spec SHM-3: what takes no overlay is not touched, here bind mounts of the native snapshotter; nothing
// of it needs a privilege.
func TestNativeIsNotShared(t *testing.T) {
	env := testutil.New(t)
	parent := finalized(t, env, nil, fileIn(t, "below", "lower"))
	mut := newMutable(t, env, parent)
	raw, err := env.Opt.Snapshotter.Mounts(ctx, mut.ID())
	require.NoError(t, err)
	require.Equal(t, mountsOf(t, raw), mountsOf(t, mountable(t, mut, false)))
	testutil.WithMount(t, mut, false, func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("one"), 0o600))
		requireFile(t, mut, "f", "one")
		entries, err := os.ReadDir(env.Opt.MountPoolRoot)
		require.NoError(t, err)
		require.Empty(t, entries)
	})
	imm := commit(t, mut)
	require.Equal(t, snapshot.ReadOnlyMounts(mountsOf(t, raw)), mountsOf(t, mountable(t, imm, true)))
	release(t, imm, parent)
}

// Scenario S-23, spec INIT-1, SHM-5: directories that are left over in the pool are gone after a start, also
// without any privilege; files and what has content stay.
func TestStartCleansPool(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	root := env.Opt.MountPoolRoot
	require.NoError(t, env.Close())
	require.NoError(t, os.MkdirAll(filepath.Join(root, "buildkit123"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "full", "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	env.Open()
	require.NoDirExists(t, filepath.Join(root, "buildkit123"))
	require.DirExists(t, filepath.Join(root, "full", "sub"))
	require.FileExists(t, filepath.Join(root, "file"))
	require.NoError(t, env.Close())
	require.NoError(t, os.RemoveAll(root))
	env.Open()
	fi, err := os.Stat(root)
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, fi.Mode())
}

// Spec SHM-5, INIT-3: a pool that cannot be made is an error before anything is repaired.
func TestStartWithoutPool(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	root := env.Opt.MountPoolRoot
	require.NoError(t, env.Close())
	require.NoError(t, os.RemoveAll(root))
	require.NoError(t, os.WriteFile(root, nil, 0o600))
	env.Faults.Reset()
	require.ErrorContains(t, env.TryOpen(ctx), "creating the mount pool")
	require.Zero(t, env.Faults.Count("leases.*"), "%s", env.Faults.Trace())
	require.NoError(t, os.Remove(root))
	env.Open()
}

// Fault 32, spec SHM-5: mounts that a process which is dead left, stacked ones included, are unmounted at the next
// start of another on its directory; those of one that lives are not touched, though both share a pool.
func TestStaleMounts(t *testing.T) {
	if job, ok := crash.Asked(t); ok {
		env, mut := overlayChild(t, testutil.InDir(job.Dir))
		shared, _ := mustMount(t, mountable(t, mut, false))
		require.NoError(t, os.WriteFile(filepath.Join(shared.Source, "f"), []byte("data"), 0o600))
		requirePool(t, env.Opt.MountPoolRoot, shared.Source)
		job.Say(t, shared.Source)
		job.Die(t)
	}
	need.Overlay(t)
	dir := t.TempDir()
	said := crash.Run(t, crash.Job{Dir: dir})
	require.Len(t, said, 1)
	var stale string
	require.NoError(t, json.Unmarshal(said[0], &stale))
	root := filepath.Dir(stale)
	unmount := func() { require.NoError(t, mount.UnmountAll(stale, 0)) }
	defer unmount()
	twice := mount.Mount{Type: "bind", Source: t.TempDir(), Options: []string{"rbind"}}
	require.NoError(t, twice.Mount(stale))
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
	require.NoError(t, err)
	require.Len(t, infos, 2, "or there is nothing to clean")

	inPool := testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.MountPoolRoot = root })
	env := testutil.New(t, testutil.Overlay(), testutil.InDir(dir))
	require.Equal(t, root, env.Opt.MountPoolRoot)
	requirePool(t, root)
	parent := finalized(t, env, nil, nil)
	mut := newMutable(t, env, parent)
	shared, done := mustMount(t, mountable(t, mut, false))
	require.NoError(t, os.Mkdir(stale, 0o700))
	require.NoError(t, twice.Mount(stale))
	other := testutil.New(t, testutil.Doubles(), inPool)
	requirePool(t, root, shared.Source)
	require.NoError(t, other.Close())
	require.NoError(t, done())
	requirePool(t, root)
	release(t, mut, parent)
}

// Spec SHM-1, SHM-3: a process that may not mount gets an overlay's own options, for one that may.
func TestSharedMountWithoutPrivilege(t *testing.T) {
	env, mut := overlayChild(t)
	cache.SetMayMount(env.Manager, func() error { return errdefs.ErrPermissionDenied })
	raw, done := mustMount(t, mountable(t, mut, false))
	require.Equal(t, "overlay", raw.Type)
	require.True(t, options(raw, "upperdir="))
	require.NoError(t, done())
	requirePool(t, env.Opt.MountPoolRoot)
	release(t, mut)
}

// Spec SHM-2: an unmount that the kernel refuses for good does not keep a ref from being released. Close names it.
func TestStuckSharedMount(t *testing.T) {
	env := testutil.New(t, testutil.Overlay())
	parent := finalized(t, env, nil, nil)
	mut := newMutable(t, env, parent)
	release(t, parent)
	restore := cache.SetPoolUnmount(env.Manager, func(string, bool) error { return errBackend })
	shared, done := mustMount(t, mountable(t, mut, false))
	require.ErrorIs(t, done(), errBackend)
	release(t, mut)
	root, m := env.Opt.MountPoolRoot, env.Manager
	requirePool(t, root, shared.Source)
	require.ErrorIs(t, env.Close(), errBackend)
	requirePool(t, root, shared.Source)
	restore()
	require.NoError(t, done())
	requirePool(t, root)
	require.NoError(t, m.Close())
	env.Open()
}
