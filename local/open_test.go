package local

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/metadata"
)

// The layout is that of a BuildKit worker directory, private to its owner (fault 43, issue item 6).
func TestLayout(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := filepath.Join(t.TempDir(), "a", "b")
		p := openParts(t, dir, opts)
		newLayer(t, p, "one", "")
		require.Equal(t, filepath.Join(dir, "cachemounts"), p.MountPoolRoot)
		require.Equal(t, "asked for", p.SnapshotterReason)

		for path, mode := range map[string]fs.FileMode{
			".": fs.ModeDir | 0o700, "../": fs.ModeDir | 0o700,
			"content": fs.ModeDir | 0o700, "content/ingest": fs.ModeDir | 0o700,
			"content/blobs": fs.ModeDir | 0o700, "content/blobs/sha256": fs.ModeDir | 0o700,
			"snapshots": fs.ModeDir | 0o700, "snapshots/snapshots": fs.ModeDir | 0o700,
			"cachemounts":       fs.ModeDir | 0o700,
			"containerdmeta.db": 0o600, "metadata_v2.db": 0o600, "snapshots/metadata.db": 0o600,
		} {
			st, err := os.Lstat(filepath.Join(dir, path))
			require.NoError(t, err)
			require.Equal(t, mode, st.Mode(), path)
		}
		all, err := p.LeaseManager.List(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

// What was stored is there after reopening, and a snapshotter that was not named is the one from before.
func TestReopenKeepsSnapshotter(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		p := openParts(t, dir, opts)
		newLayer(t, p, "one", "")
		newLayer(t, p, "two", "one")
		require.NoError(t, p.Close())
		require.NoError(t, p.Close(), "closing again")

		p = openParts(t, dir, Options{})
		require.Equal(t, opts.Snapshotter, p.SnapshotterName)
		require.Equal(t, "the directory was made with it", p.SnapshotterReason)
		require.ElementsMatch(t, []string{"one", "two"}, layerFiles(t, p, "two"))
	})
}

// Without a word about it the choice is overlayfs where it works and native elsewhere, with the reason.
func TestAutomaticChoice(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{})
	if probeOverlayfs(t.TempDir()) == nil {
		require.Equal(t, Overlayfs, p.SnapshotterName)
		require.Equal(t, "a trial mount worked", p.SnapshotterReason)
		require.True(t, p.Transactions.Snapshots)
		return
	}
	require.Equal(t, Native, p.SnapshotterName)
	require.Contains(t, p.SnapshotterReason, "overlayfs does not work here: ")
	require.False(t, p.Transactions.Snapshots)
}

// Where overlayfs cannot be mounted, on top of another overlayfs for instance, a new directory
// gets the native snapshotter, and asking for overlayfs is an error.
func TestOverlayfsDoesNotWork(t *testing.T) {
	// A colon separates layers in the mount's options.
	dir := filepath.Join(t.TempDir(), "with:colon")
	require.NoError(t, os.Mkdir(dir, 0o700))
	t.Run("asked for", func(t *testing.T) {
		_, err := OpenParts(t.Context(), dir, Options{Snapshotter: Overlayfs})
		require.ErrorIs(t, err, ErrSnapshotter)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	})
	t.Run("automatic", func(t *testing.T) {
		p := openParts(t, dir, Options{})
		require.Equal(t, Native, p.SnapshotterName)
		require.Contains(t, p.SnapshotterReason, "overlayfs does not work here: ")
	})
}

// Another snapshotter than the directory's is refused before anything is written (issue item 6).
func TestOtherSnapshotterIsRefused(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		for name, fill := range map[string]func(t *testing.T, p *Parts){
			"with snapshots": func(t *testing.T, p *Parts) { newLayer(t, p, "one", "") },
			"with leases only": func(t *testing.T, p *Parts) {
				require.NoError(t, addLease(t.Context(), p, "lazy", "not-extracted"))
			},
		} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				p := openParts(t, dir, opts)
				fill(t, p)
				require.NoError(t, p.Close())

				before := hashDir(t, dir)
				for _, other := range []Options{
					{Snapshotter: map[string]string{Native: Overlayfs, Overlayfs: Native}[opts.Snapshotter]},
					{Snapshotter: "stargz", NewSnapshotter: native.NewSnapshotter},
				} {
					_, err := OpenParts(t.Context(), dir, other)
					require.ErrorIs(t, err, ErrSnapshotter)
					require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
					require.ErrorContains(t, err, opts.Snapshotter)
				}
				require.Equal(t, before, hashDir(t, dir))
			})
		}
	})
}

// A directory with the snapshots of two snapshotters asks for a choice among them.
func TestTwoSnapshotters(t *testing.T) {
	dir := t.TempDir()
	custom := Options{Snapshotter: "mine", NewSnapshotter: native.NewSnapshotter}
	p := openParts(t, dir, custom)
	newLayer(t, p, "one", "")
	require.Equal(t, "made by the caller", p.SnapshotterReason)
	require.False(t, p.Transactions.Snapshots)
	require.NoError(t, p.Close())

	_, err := OpenParts(t.Context(), dir, Options{})
	require.ErrorIs(t, err, ErrSnapshotter)
	require.ErrorContains(t, err, "NewSnapshotter")

	addSnapshotterBucket(t, dir, "other")
	before := hashDir(t, dir)
	_, err = OpenParts(t.Context(), dir, Options{})
	require.ErrorIs(t, err, ErrSnapshotter)
	require.ErrorContains(t, err, "mine and other")
	require.Equal(t, before, hashDir(t, dir))

	p = openParts(t, dir, custom)
	require.Equal(t, []string{"one"}, layerFiles(t, p, "one"))
}

func TestBadOptions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "never-made")
	for _, opts := range []Options{
		{Snapshotter: "nonsense"},
		{NewSnapshotter: native.NewSnapshotter},
		{Snapshotter: Native, QuickSnapshots: true},
	} {
		_, err := OpenParts(t.Context(), dir, opts)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		c, err := Open(t.Context(), dir, opts)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.Nil(t, c)
	}
	_, err := OpenParts(t.Context(), "", Options{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = OpenParts(ctx, dir, Options{})
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, dir)

	_, err = OpenParts(t.Context(), filepath.Join(dir, "x"), Options{Snapshotter: "none", NewSnapshotter: func(string) (snapshots.Snapshotter, error) {
		return nil, nil
	}})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// What is not the cache's is a typed error, stays as it is, and nothing stays open (issue: bad input).
func TestForeignFiles(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T, dir string)
		want error
	}{
		"version-1 metadata": {func(t *testing.T, dir string) {
			makeBolt(t, filepath.Join(dir, "metadata.db"), "_main")
		}, metadata.ErrLegacyMetadata},
		"text as records": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, recordsDB), []byte("not a database"), 0o600))
		}, ErrForeign},
		"text as backend": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, backendDB), []byte("not a database"), 0o600))
		}, ErrForeign},
		"zeroes as backend": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, backendDB), make([]byte, 64<<10), 0o600))
		}, ErrForeign},
		"somebody else's bolt as backend": {func(t *testing.T, dir string) {
			makeBolt(t, filepath.Join(dir, backendDB), "theirs")
		}, ErrForeign},
		"backend cut short": {func(t *testing.T, dir string) {
			p := openParts(t, dir, Options{Snapshotter: Native})
			newLayer(t, p, "one", "")
			require.NoError(t, p.Close())
			require.NoError(t, os.Truncate(filepath.Join(dir, backendDB), 8<<10))
		}, ErrForeign},
		"directory as backend": {func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(filepath.Join(dir, backendDB), 0o700))
		}, ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tc.make(t, dir)
			before := hashDir(t, dir)
			for range 2 { // the second time shows that the first left no lock
				_, err := OpenParts(t.Context(), dir, Options{})
				require.ErrorIs(t, err, tc.want)
				require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
				require.NotErrorIs(t, err, ErrInUse)
			}
			require.Equal(t, before, hashDir(t, dir))
		})
	}
	t.Run("file instead of a directory", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "f")
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		_, err := OpenParts(t.Context(), path, Options{})
		require.Error(t, err)
	})
}

// An empty database file, as a crash right after its making leaves it, is as good as none.
func TestEmptyDatabaseFile(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, backendDB), nil, 0o600))
	p := openParts(t, dir, Options{Snapshotter: Native})
	newLayer(t, p, "one", "")
}

// A directory or a database that may not be written is a typed error and nothing is written.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Run("filesystem", testReadOnlyMount)
		return // modes do not stop root
	}
	for _, name := range []string{backendDB, recordsDB, filepath.Join(snapshotsDir, snapshotterDB)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := openParts(t, dir, Options{Snapshotter: Native})
			newLayer(t, p, "one", "")
			require.NoError(t, p.Close())
			require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o400))
			requireReadOnly(t, dir)
		})
	}
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o500))
		defer func() { require.NoError(t, os.Chmod(dir, 0o700)) }()
		requireReadOnly(t, dir)
	})
}

func requireReadOnly(t *testing.T, dir string) {
	t.Helper()
	before := hashDir(t, dir)
	for range 2 {
		_, err := OpenParts(t.Context(), dir, Options{})
		require.ErrorIs(t, err, ErrReadOnly)
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
	}
	require.Equal(t, before, hashDir(t, dir))
}

// A constructor that fails leaves the directory free.
func TestConstructorFails(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenParts(t.Context(), dir, Options{Snapshotter: "mine", NewSnapshotter: func(string) (snapshots.Snapshotter, error) {
		return nil, os.ErrDeadlineExceeded
	}})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	p := openParts(t, dir, Options{Snapshotter: Native})
	require.NoError(t, addLease(t.Context(), p, "l", "s"))
}

// Snapshots and blobs go through leases and collection only: Remove is refused. spec SNP-6
func TestRemoveIsForbidden(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	newLayer(t, p, "one", "")
	require.Error(t, p.Snapshotter.Remove(t.Context(), "one"))
	require.Equal(t, []string{"one"}, layerFiles(t, p, "one"))
}

// Collection removes what no lease holds and nothing else.
func TestGarbageCollect(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		newLayer(t, p, "one", "")
		newLayer(t, p, "two", "one")
		newLayer(t, p, "other", "")
		require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: "one"}))
		require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: "other"}))
		_, err := p.GarbageCollect(t.Context())
		require.NoError(t, err)

		require.ElementsMatch(t, []string{"one", "two"}, layerFiles(t, p, "two"), "a parent lives by its child")
		_, err = p.Snapshotter.Stat(t.Context(), "other")
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		require.Len(t, snapshotDirs(t, p), 2)
	})
}

// snapshotDirs lists the directories in which the snapshotter keeps its data.
func snapshotDirs(t *testing.T, p *Parts) []string {
	t.Helper()
	_, err := p.GarbageCollect(t.Context()) // of views
	require.NoError(t, err)
	dirs, err := filepath.Glob(filepath.Join(p.Dir, "snapshots", "snapshots", "*"))
	require.NoError(t, err)
	return dirs
}

// A collection goes on when its caller leaves, and Close waits for it; afterwards there is none.
func TestCloseWaitsForCollection(t *testing.T) {
	dir := t.TempDir()
	blocked := newBlocking(t)
	p, err := OpenParts(t.Context(), dir, Options{Snapshotter: "slow", NewSnapshotter: blocked.open})
	require.NoError(t, err)
	newLayer(t, p, "one", "")
	require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: "one"}))

	ctx, cancel := context.WithCancel(t.Context())
	collected := make(chan error, 1)
	go func() {
		_, err := p.GarbageCollect(ctx)
		collected <- err
	}()
	<-blocked.removing
	cancel()
	require.ErrorIs(t, <-collected, context.Canceled)

	closed := make(chan error, 1)
	go func() { closed <- p.Close() }()
	_, err = p.GarbageCollect(t.Context())
	for err == nil { // until Close has got as far as to refuse
		_, err = p.GarbageCollect(t.Context())
	}
	require.ErrorIs(t, err, ErrClosed)
	select {
	case err := <-closed:
		require.Fail(t, "Close did not wait", "%v", err)
	default:
	}
	close(blocked.proceed)
	require.NoError(t, <-closed)
}

// Everything is in the namespace that BuildKit uses, whatever that of the context. spec SNP-6 SNP-7
func TestNamespace(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	ctx := namespaces.WithNamespace(t.Context(), "elsewhere")
	require.NoError(t, addLease(ctx, p, "l", "s"))
	require.NoError(t, p.Snapshotter.Prepare(ctx, "s", ""))
	w, err := p.ContentStore.Writer(ctx, content.WithRef("r"))
	require.NoError(t, err)
	require.NoError(t, w.Commit(ctx, 0, ""))
	require.NoError(t, w.Close())
	require.NoError(t, p.raw.View(func(tx *bolt.Tx) error {
		top := tx.Bucket([]byte("v1"))
		require.Nil(t, top.Bucket([]byte("elsewhere")))
		ns := top.Bucket([]byte("buildkit"))
		require.NotNil(t, ns.Bucket([]byte("leases")).Bucket([]byte("l")))
		require.NotNil(t, ns.Bucket([]byte("snapshots")).Bucket([]byte("native")).Bucket([]byte("s")))
		k, _ := ns.Bucket([]byte("content")).Bucket([]byte("blob")).Cursor().First()
		require.Equal(t, digest.FromString("").String(), string(k))
		return nil
	}))
}

// counting is a wrapper that counts Commits.
type counting struct {
	snapshots.Snapshotter
	commits int
}

func (c *counting) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	c.commits++
	return c.Snapshotter.Commit(ctx, name, key, opts...)
}

// A wrapper sees the calls below containerd's metadata, and a Commit whose transaction fails is taken back
// in spite of it. A wrapper that is none is refused, and the directory is free again.
func TestWrapSnapshotter(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		wrapper := &counting{}
		opts.WrapSnapshotter = func(s snapshots.Snapshotter) snapshots.Snapshotter {
			wrapper.Snapshotter = s
			return wrapper
		}
		p := openParts(t, dir, opts)
		newLayer(t, p, "one", "")
		require.Equal(t, 1, wrapper.commits)
		if p.Transactions.Snapshots {
			require.NoError(t, addLease(t.Context(), p, "active", "active"))
			require.NoError(t, p.Snapshotter.Prepare(t.Context(), "active", "one"))
			require.Same(t, errBoom, p.Transactions.Update(t.Context(), func(ctx context.Context) error {
				require.NoError(t, p.Snapshotter.Commit(ctx, "top", "active"))
				return errBoom
			}))
			info, err := p.Snapshotter.Stat(t.Context(), "active")
			require.NoError(t, err)
			require.Equal(t, snapshots.KindActive, info.Kind)
		}
		require.NoError(t, p.Close())

		opts.WrapSnapshotter = func(snapshots.Snapshotter) snapshots.Snapshotter { return nil }
		_, err := OpenParts(t.Context(), dir, opts)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		opts.WrapSnapshotter = nil
		require.Equal(t, []string{"one"}, layerFiles(t, openParts(t, dir, opts), "one"))
	})
}
