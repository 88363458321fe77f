package daemon

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// limit is what a call may take in these tests. A daemon that does answer takes milliseconds.
const limit = 2 * time.Second

// TestDaemonHangs: a daemon that is suspended answers nothing. Calls end with the caller's deadline or, if there is none, at the limit, with
// "deadline exceeded"; what needs no daemon goes on; when it is resumed everything works, and nothing was lost (fault 26; spec REF-12, INIT-3).
func TestDaemonHangs(t *testing.T) {
	d := Start(t)
	ctx := t.Context()
	dir := t.TempDir()
	opts := containerd.Options{Snapshotter: "overlayfs", CallTimeout: limit}
	c, err := containerd.Open(ctx, d.Client(), dir, opts)
	require.NoError(t, err)
	var o origin
	desc := o.layer(t, tree.File("file", "content"))
	kept := o.get(t, c, o.layer(t, tree.File("kept", "k")), nil)
	require.NoError(t, kept.Extract(ctx, nil))
	mut, err := c.New(ctx, kept, nil)
	require.NoError(t, err)
	fill(t, mut, "more", "m")
	sealed, err := mut.Commit(ctx)
	require.NoError(t, err)
	lazy := o.get(t, c, desc, kept)
	gone := writeLayer(t, c, nil, "gone", "g")
	require.NoError(t, gone.Release(ctx))

	hung := map[string]func(ctx context.Context) error{
		"new":      func(ctx context.Context) error { _, err := c.New(ctx, kept, nil); return err },
		"finalize": func(ctx context.Context) error { return sealed.Finalize(ctx) },
		"extract":  func(ctx context.Context) error { return lazy.Extract(ctx, nil) },
		"prune": func(ctx context.Context) error {
			return c.Prune(ctx, nil, usage.PruneInfo{All: true, Filter: []string{"id==" + gone.ID()}})
		},
		"open": func(ctx context.Context) error {
			_, err := containerd.Open(ctx, d.Client(), t.TempDir(), opts)
			return err
		},
	}
	d.Suspend()
	for name, do := range hung {
		for what, own := range map[string]time.Duration{"the caller's": limit / 4, "the limit": 0} {
			cctx, cancel := ctx, context.CancelFunc(func() {})
			if own > 0 {
				cctx, cancel = context.WithTimeout(ctx, own)
			}
			start := time.Now()
			err := do(cctx)
			cancel()
			require.True(t, errdefs.IsDeadlineExceeded(err), "%s, %s: %v", name, what, err)
			if own == 0 {
				require.GreaterOrEqual(t, time.Since(start), limit, name)
			}
		}
	}
	// Memory is not the daemon's.
	again, err := c.Get(ctx, kept.ID(), nil)
	require.NoError(t, err)
	require.NoError(t, again.Release(ctx))
	d.Resume()

	requireTree(t, kept, tree.File("kept", "k"))
	require.NoError(t, sealed.Finalize(ctx))
	requireTree(t, sealed, tree.File("kept", "k"), tree.File("more", "m"))
	require.NoError(t, lazy.Extract(ctx, nil))
	requireTree(t, lazy, tree.File("kept", "k"), tree.File("file", "content"))
	for _, ref := range []cache.ImmutableRef{sealed, lazy, kept} {
		require.NoError(t, ref.Release(ctx))
	}
	require.NoError(t, c.Close())

	c, err = containerd.Open(ctx, d.Client(), dir, opts)
	require.NoError(t, err)
	found, err := c.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
	require.NoError(t, c.Close())
	require.Empty(t, leasesIn(t, d, containerd.DefaultNamespace))
	require.Empty(t, snapshotsIn(t, d, containerd.DefaultNamespace, "overlayfs"))
}

// TestDaemonHangsMidway: a daemon that is suspended in the middle of an operation, when it gets the call that takes longest. The operation ends
// with "deadline exceeded", by the caller's deadline or at the limit; with the daemon resumed the same manager does it, and
// nothing is left over (fault 26; spec REF-12, LEASE-4).
func TestDaemonHangsMidway(t *testing.T) {
	d := Start(t)
	for name, call := range map[string]string{
		"pull": "Content/Write", "extract": "Diff/Apply", "new": "Snapshots/Prepare", "commit": "Snapshots/Commit", "prune": "Leases/Delete",
	} {
		for what, own := range map[string]time.Duration{"deadline": limit / 4, "limit": 0} {
			t.Run(name+"/"+what, func(t *testing.T) {
				var calls Calls
				cl, dir, op := d.Client(calls.Opt()), t.TempDir(), operations[name]
				opts := containerd.Options{Namespace: namespaceOf(dir), Snapshotter: "overlayfs", CallTimeout: limit / 2}
				s := newScene(t, cl, dir, opts, op.prepare)
				t.Cleanup(d.Resume) // for the others, if this fails
				var once sync.Once
				calls.hook(func(_ context.Context, method string) error {
					if method == call {
						once.Do(d.Suspend)
					}
					return nil
				}, nil)
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if own > 0 {
					ctx, cancel = context.WithTimeout(ctx, own)
				}
				start := time.Now()
				err := op.do(ctx, s)
				t.Logf("after %s: %v", time.Since(start), err)
				cancel()
				once.Do(func() { t.Errorf("%s was not called", call) })
				require.True(t, errdefs.IsDeadlineExceeded(err), "%v", err)
				calls.hook(nil, nil)
				d.Resume()
				require.NoError(t, op.do(t.Context(), s))
				op.check(t.Context(), t, s)
				s.end(t, d, cl, dir, opts, what)
			})
		}
	}
}

// TestDaemonBack: with a daemon that was killed every call says "unavailable" at once, and the first after it is back succeeds, of
// the same manager, whoever else uses the client (fault 31).
func TestDaemonBack(t *testing.T) {
	d := Start(t)
	ctx := t.Context()
	client := d.Client()
	c, err := containerd.Open(ctx, client, t.TempDir(), containerd.Options{Snapshotter: "overlayfs"})
	require.NoError(t, err)
	ref := writeLayer(t, c, nil, "file", "x")
	for range 3 {
		d.Kill()
		for range 5 {
			_, err := c.New(ctx, ref, nil)
			require.True(t, errdefs.IsUnavailable(err), "%v", err)
		}
		d.Run()
		mut, err := c.New(ctx, ref, nil)
		require.NoError(t, err)
		requireTree(t, mut, tree.File("file", "x"))
		require.NoError(t, mut.Release(ctx))
		_, err = client.Version(ctx)
		require.NoError(t, err)
	}
	require.NoError(t, ref.Release(ctx))
	require.NoError(t, c.Close())
}
