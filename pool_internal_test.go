package cache

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

var errSystem = errors.New("the system says no")

// fakeSystem counts mounts instead of making them, and knows which overlay is mounted where.
type fakeSystem struct {
	t  *testing.T
	mu sync.Mutex
	// on maps a directory to the source of what is mounted on it.
	on                 map[string]string
	mounts, unmounts   int
	mountErr, plainErr error // plainErr fails an unmount that does not detach
	detachErr          error
	unprivileged       error
	mountedErr         error
	hang               map[string]chan struct{} // mounting this source waits
	entered            chan string
}

func (f *fakeSystem) system() poolSystem {
	return poolSystem{
		mayMount: func() error { return f.unprivileged },
		mount:    f.mount,
		unmount:  f.unmount,
		mounted: func(dir string) (bool, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			_, ok := f.on[dir]
			return ok, f.mountedErr
		},
	}
}

func (f *fakeSystem) mount(mounts []mount.Mount, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	source := mounts[0].Source
	if hang := f.hang[source]; hang != nil {
		f.mu.Unlock()
		f.entered <- source
		<-hang
		f.mu.Lock()
	}
	f.mounts++
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		f.t.Errorf("%s is no mount point: %v", dir, err)
	}
	if f.mountErr != nil {
		return f.mountErr
	}
	for at, s := range f.on {
		if s == source {
			f.t.Errorf("%s is mounted on %s and %s", source, at, dir)
		}
	}
	f.on[dir] = source
	return nil
}

func (f *fakeSystem) unmount(dir string, detach bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unmounts++
	err := f.plainErr
	if detach {
		err = f.detachErr
	}
	if err == nil {
		delete(f.on, dir)
	}
	return err
}

func (f *fakeSystem) live() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.on)
}

// newFakePool returns a pool in a new directory on a fake system, which has nothing left in the end.
func newFakePool(t *testing.T) (*mountPool, *fakeSystem) {
	t.Helper()
	f := &fakeSystem{t: t, on: map[string]string{}, entered: make(chan string)}
	p, err := openPool(filepath.Join(t.TempDir(), "pool"))
	require.NoError(t, err)
	p.sys = f.system()
	t.Cleanup(func() { requireEmptyPool(t, p, f) })
	return p, f
}

func requireEmptyPool(t *testing.T, p *mountPool, f *fakeSystem) {
	t.Helper()
	require.Zero(t, f.live(), "mounts are left")
	require.Empty(t, entriesOf(t, p.root))
	require.Empty(t, p.shared)
	require.Empty(t, p.strays)
}

func entriesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// fakeMountable counts its users.
type fakeMountable struct {
	mounts       []mount.Mount
	err, doneErr error
	mu           sync.Mutex
	users        int
}

func (m *fakeMountable) Mount() ([]mount.Mount, func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, nil, m.err
	}
	m.users++
	return slices.Clone(m.mounts), func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.users--
		return m.doneErr
	}, nil
}

func (*fakeMountable) IdentityMapping() *user.IdentityMapping { return &user.IdentityMapping{} }

// overlayOf is a writable overlay.
func overlayOf(source string) *fakeMountable {
	return &fakeMountable{mounts: []mount.Mount{{
		Type: "overlay", Source: source, Options: []string{"workdir=/w", "upperdir=/u", "lowerdir=/l1:/l2"},
	}}}
}

// mustMount mounts and returns where, and the release.
func mustMount(t *testing.T, m snapshot.Mountable) (string, func() error) {
	t.Helper()
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	require.Len(t, mounts, 1)
	return mounts[0].Source, release
}

// Spec SHM-1, SHM-2: all users share one mount, in a directory of the pool, which goes with the last of
// them, in whatever order they end; then the next one has a new mount.
func TestSharedMountPermutations(t *testing.T) {
	p, f := newFakePool(t)
	inner := overlayOf("o")
	s := p.share("key", inner)
	require.Equal(t, inner.IdentityMapping(), s.IdentityMapping())
	for round, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var releases []func() error
		var where string
		for range order {
			mounts, release, err := s.Mount()
			require.NoError(t, err)
			releases = append(releases, release)
			where = mounts[0].Source
			require.Equal(t, []mount.Mount{{Type: "bind", Source: where, Options: []string{"rw", "rbind"}}}, mounts)
			mounts[0].Options[0] = "spoilt"
			require.Equal(t, []string{filepath.Base(where)}, entriesOf(t, p.root))
		}
		require.Regexp(t, `^buildkit.+`, filepath.Base(where))
		require.Equal(t, p.root, filepath.Dir(where))
		require.Equal(t, round+1, f.mounts)
		require.Equal(t, 1, inner.users)
		for i, user := range order {
			require.Equal(t, map[string]string{where: "o"}, f.on)
			require.NoError(t, releases[user]())
			require.Equal(t, i == len(order)-1, f.live() == 0)
		}
		require.Equal(t, round+1, f.unmounts)
		require.Zero(t, inner.users)
		requireEmptyPool(t, p, f)
	}
}

// Quirk Q32, spec SHM-2: a release acts once, whoever uses the mount by then.
func TestSharedMountReleasedTwice(t *testing.T) {
	p, f := newFakePool(t)
	s := p.share("key", overlayOf("o"))
	_, first := mustMount(t, s)
	_, second := mustMount(t, s)
	require.NoError(t, first())
	require.NoError(t, first())
	require.NoError(t, first())
	require.Equal(t, 1, f.live(), "the second is not released")
	require.NoError(t, second())
	_, third := mustMount(t, s)
	require.NoError(t, first())
	require.NoError(t, second())
	require.Equal(t, 1, f.live(), "the third is not released")
	t.Setenv("BUILDKIT_DEBUG_PANIC_ON_ERROR", "1")
	require.Panics(t, func() { _ = second() })
	require.NoError(t, third())
	require.Equal(t, 2, f.unmounts)
}

// Spec SHM-3: what is no writable overlay is passed through, and everything is where the process may not mount.
func TestNothingToShare(t *testing.T) {
	readOnly := overlayOf("o")
	readOnly.mounts[0].Options = []string{"lowerdir=/l1:/upperdir=:/l2"}
	for name, m := range map[string]*fakeMountable{
		"bind":              {mounts: []mount.Mount{{Type: "bind", Source: "/s", Options: []string{"rw", "rbind"}}}},
		"none":              {},
		"read-only overlay": readOnly,
		"no privilege":      overlayOf("o"),
		"fuse":              {mounts: []mount.Mount{{Type: "fuse3.fuse-overlayfs", Options: []string{"upperdir=/u"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			p, f := newFakePool(t)
			if name == "no privilege" {
				f.unprivileged = errSystem
			}
			for _, s := range []snapshot.Mountable{p.share("key", m), sharedReader{p.share("key", m)}} {
				mounts, release, err := s.Mount()
				require.NoError(t, err)
				require.Equal(t, m.mounts, mounts)
				require.Equal(t, 1, m.users)
				require.NoError(t, release())
				require.Zero(t, m.users)
				m.err = errSystem
				_, _, err = s.Mount()
				require.ErrorIs(t, err, errSystem)
				m.err = nil
			}
			require.Zero(t, f.mounts)
			require.Zero(t, f.unmounts)
		})
	}
}

// Spec SHM-1: options that came joined in one string are understood.
func TestWritableOverlayIsRecognized(t *testing.T) {
	for options, want := range map[string]bool{
		"upperdir=/u": true, "index=off,upperdir=/u,workdir=/w": true, "lowerdir=/upperdir=/u": false, "": false,
	} {
		require.Equal(t, want, isWritableOverlay(mount.Mount{Type: "overlay", Options: []string{options}}), "%q", options)
	}
}

// Spec SHM-1, SHM-2: a mount that fails leaves nothing behind and can be tried again.
func TestSharedMountFails(t *testing.T) {
	p, f := newFakePool(t)
	inner := overlayOf("o")
	s := p.share("key", inner)
	try := func(text string) {
		t.Helper()
		mounts, release, err := s.Mount()
		require.ErrorContains(t, err, text)
		require.ErrorContains(t, err, `"key"`)
		require.Nil(t, mounts)
		require.Nil(t, release)
		require.Zero(t, inner.users)
		require.Empty(t, p.shared)
	}
	f.mountErr = errSystem
	try("the system says no")
	requireEmptyPool(t, p, f)
	inner.doneErr = errors.New("stuck")
	try("release failed, too (stuck)")
	inner.doneErr = nil

	require.NoError(t, os.Rename(p.root, p.root+"-moved"))
	try("no such file")
	require.NoError(t, os.Rename(p.root+"-moved", p.root))

	f.mountErr = nil
	_, release := mustMount(t, s)
	require.NoError(t, release())
}

// Spec SHM-2: what a failed mount could not take back is named, and Close tries again.
func TestFailedMountThatStays(t *testing.T) {
	p, f := newFakePool(t)
	f.mountErr, f.detachErr = errSystem, errors.New("stuck")
	_, _, err := p.share("key", overlayOf("o")).Mount()
	require.ErrorIs(t, err, errSystem)
	require.ErrorContains(t, err, "stays for now (stuck)")
	left := entriesOf(t, p.root)
	require.Len(t, left, 1)
	require.ErrorContains(t, err, left[0])
	f.detachErr = nil
	require.NoError(t, p.close())
}

// Spec SHM-2, quirk Q32: after unmounting failed the mount is still known: the next user gets it, and
// the release can be tried again.
func TestUnmountFails(t *testing.T) {
	for _, next := range []string{"release again", "mount again", "another's release", "retire", "close", "close fails"} {
		t.Run(next, func(t *testing.T) {
			p, f := newFakePool(t)
			inner := overlayOf("o")
			s := p.share("key", inner)
			where, release := mustMount(t, s)
			f.plainErr = errSystem
			require.ErrorIs(t, release(), errSystem)
			require.ErrorIs(t, release(), errSystem)
			require.Equal(t, 1, f.live())
			require.Equal(t, 1, inner.users)
			require.NotEmpty(t, entriesOf(t, p.root))
			switch next {
			case "release again":
				f.plainErr = nil
				require.NoError(t, release())
			case "mount again":
				again, release2 := mustMount(t, p.share("key", inner))
				require.Equal(t, where, again)
				require.Equal(t, 1, f.mounts)
				require.NoError(t, release(), "there is a user again")
				f.plainErr = nil
				require.NoError(t, release2())
			case "another's release":
				_, release2 := mustMount(t, s)
				f.plainErr = nil
				require.NoError(t, release2())
				elsewhere, release3 := mustMount(t, s)
				require.NotEqual(t, where, elsewhere)
				require.NoError(t, release(), "its mount is gone")
				require.Equal(t, 1, f.live())
				require.NoError(t, release3())
			case "retire":
				require.NoError(t, s.retire())
				require.NoError(t, release())
			case "close":
				require.NoError(t, p.close())
				require.NoError(t, release())
			case "close fails":
				f.detachErr = errSystem
				require.ErrorIs(t, p.close(), errSystem)
				require.Equal(t, 1, f.live())
				f.plainErr = nil
				require.NoError(t, release())
			}
			require.Zero(t, inner.users)
		})
	}
}

// Spec SHM-2: a mount point that cannot be removed, or mounts that cannot be given back, are told once;
// the mount is gone, and Close removes what is left.
func TestMountPointStays(t *testing.T) {
	p, _ := newFakePool(t)
	inner := overlayOf("o")
	s := p.share("key", inner)
	where, release := mustMount(t, s)
	file := filepath.Join(where, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	inner.doneErr = errSystem
	err := release()
	require.ErrorIs(t, err, errSystem)
	require.ErrorContains(t, err, "not empty")
	require.NoError(t, release())
	inner.doneErr = nil
	elsewhere, release := mustMount(t, s)
	require.NotEqual(t, where, elsewhere)
	require.NoError(t, release())
	require.ErrorContains(t, p.close(), "not empty")
	require.FileExists(t, file, "nothing is removed recursively")
	require.NoError(t, os.RemoveAll(where))
}

// Spec MNT-7: a mount in use outlives the end of its record; no new one begins.
func TestRetiredMountable(t *testing.T) {
	p, f := newFakePool(t)
	inner := overlayOf("o")
	s := p.share("key", inner)
	_, release := mustMount(t, s)
	require.NoError(t, s.retire())
	require.Equal(t, 1, f.live())
	_, _, err := s.Mount()
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	require.NoError(t, p.close())
	require.Equal(t, 1, f.live(), "its user has it still")
	require.NoError(t, release())
	_, _, err = s.Mount()
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)

	mounts, release, err := sharedReader{s}.Mount()
	require.NoError(t, err, "reading does no harm")
	require.Equal(t, inner.mounts, mounts)
	require.NoError(t, release())
}

// Quirk Q81, spec MNT-6: a reader uses the shared mount while there is one, and counts as its user.
func TestSharedReader(t *testing.T) {
	p, f := newFakePool(t)
	inner := overlayOf("o")
	s := p.share("key", inner)
	reader := sharedReader{p.share("key", inner)}
	mounts, release, err := reader.Mount()
	require.NoError(t, err)
	require.Equal(t, inner.mounts, mounts)
	require.NoError(t, release())

	where, released := mustMount(t, s)
	read, readReleased := mustMount(t, reader)
	require.Equal(t, where, read)
	require.NoError(t, released())
	require.Equal(t, 1, f.live())
	require.NoError(t, readReleased())
	require.NoError(t, readReleased())

	mounts, release, err = snapshot.ReadOnly(s).Mount()
	require.NoError(t, err)
	require.Equal(t, []string{"rbind", "ro"}, mounts[0].Options)
	require.NoError(t, release())
}

// Fault 26: a mount that hangs holds up its own snapshot's users and nobody else.
func TestHungMount(t *testing.T) {
	p, f := newFakePool(t)
	f.hang = map[string]chan struct{}{"slow": make(chan struct{})}
	slow := p.share("slow", overlayOf("slow"))
	done := make(chan error, 2)
	use := func(m snapshot.Mountable) {
		_, release, err := m.Mount()
		if err == nil {
			err = release()
		}
		done <- err
	}
	go use(slow)
	require.Equal(t, "slow", <-f.entered)
	go use(sharedReader{slow})
	_, release := mustMount(t, p.share("other", overlayOf("other")))
	require.NoError(t, release())
	require.NoError(t, slow.retire(), "does not wait")
	require.NoError(t, p.close(), "does not wait")
	close(f.hang["slow"])
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

// Spec SHM-1, SHM-2: users come and go at the same time, and some unmounts fail; the fake complains of a
// snapshot that is mounted twice.
func TestSharedMountRaces(t *testing.T) {
	p, f := newFakePool(t)
	sources := []string{"a", "b"}
	inner := map[string]*fakeMountable{}
	for _, s := range sources {
		inner[s] = overlayOf(s)
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 200 {
				source := sources[(worker+i)%2]
				var m snapshot.Mountable = p.share(source, inner[source])
				if i%5 == 0 {
					m = sharedReader{p.share(source, inner[source])}
				}
				mounts, release, err := m.Mount()
				if err != nil {
					t.Errorf("mounting: %v", err)
					return
				}
				if mounts[0].Type == "bind" {
					if _, err := os.Stat(mounts[0].Source); err != nil {
						t.Errorf("used while it is gone: %v", err)
					}
				}
				if i%50 == 0 {
					_ = p.close()
				}
				f.mu.Lock()
				f.plainErr = nil
				if i%7 == 0 {
					f.plainErr = errSystem
				}
				f.mu.Unlock()
				if err := release(); err != nil && !errors.Is(err, errSystem) {
					t.Errorf("releasing: %v", err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, p.close())
	for _, m := range inner {
		require.Zero(t, m.users)
	}
}

// Spec SHM-5, scenario S-23: what is cleaned at the start, and what is left alone.
func TestCleanPool(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "pool")
	p, err := openPool(root)
	require.NoError(t, err)
	fi, err := os.Stat(root)
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, fi.Mode())
	require.Empty(t, p.found)

	for _, name := range []string{"buildkit1", "other", "full", "stuck"} {
		require.NoError(t, os.Mkdir(filepath.Join(root, name), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "full", "data"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	elsewhere := t.TempDir()
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(root, "link")))
	stuck := filepath.Join(root, "stuck")
	f := &fakeSystem{t: t, on: map[string]string{stuck: "o"}}
	open := func() {
		t.Helper()
		p, err = openPool(root)
		require.NoError(t, err)
		p.sys = f.system()
		require.NoError(t, os.MkdirAll(filepath.Join(root, "new"), 0o700))
		p.clean(context.Background())
		require.DirExists(t, filepath.Join(root, "new"), "it was not there when the pool was opened")
		require.NoError(t, os.Remove(filepath.Join(root, "new")))
	}
	f.detachErr, f.mountedErr = errSystem, errSystem
	open()
	require.ElementsMatch(t, []string{"buildkit1", "other", "full", "stuck", "file", "link"}, entriesOf(t, root), "they may be mounted")
	f.mountedErr = nil
	open()
	require.ElementsMatch(t, []string{"full", "stuck", "file", "link"}, entriesOf(t, root), "it is mounted")
	f.detachErr = nil
	open()
	require.ElementsMatch(t, []string{"full", "file", "link"}, entriesOf(t, root))
	require.FileExists(t, filepath.Join(root, "full", "data"))
	require.DirExists(t, elsewhere)
}

// Spec SHM-5: without a root of its own the pool is in the directory for temporary files, and nothing is cleaned.
func TestPoolWithoutRoot(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	if os.TempDir() != tmp {
		t.Skip("needs a system where TMPDIR names the directory for temporary files")
	}
	require.NoError(t, os.Mkdir(filepath.Join(tmp, "buildkit1"), 0o700))
	p, err := openPool("")
	require.NoError(t, err)
	f := &fakeSystem{t: t, on: map[string]string{}}
	p.sys = f.system()
	p.clean(context.Background())
	require.Zero(t, f.unmounts)
	require.Equal(t, []string{"buildkit1"}, entriesOf(t, tmp))
	where, release := mustMount(t, p.share("key", overlayOf("o")))
	require.Equal(t, tmp, filepath.Dir(where))
	require.NoError(t, release())
}

// Spec SHM-5: a root that is no directory is an error; a relative one is made absolute, for who mounts
// from it may have another working directory.
func TestPoolRoots(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := openPool(file)
	require.ErrorContains(t, err, file)
	t.Chdir(dir)
	p, err := openPool("pool")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "pool"), p.root)
	require.DirExists(t, p.root)
}
