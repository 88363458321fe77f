package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// killing has the daemon killed at one of the calls of a client.
type killing struct {
	d     *Daemon
	calls Calls

	mu sync.Mutex
	// at is which call from now on it is, counted from 1; 0 for none. After says that the call is made first.
	at    int
	after bool
	seen  []string
	died  bool
}

// arm sets the call at which the daemon dies, and forgets those that were seen.
func (k *killing) arm(at int, after bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.after, k.seen, k.died = at, after, nil, false
}

// pass is before and after of calls.
func (k *killing) pass(after bool) func(ctx context.Context, method string) error {
	return func(_ context.Context, method string) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !after {
			k.seen = append(k.seen, method)
		}
		if k.died || len(k.seen) != k.at || after != k.after {
			return nil
		}
		k.died = true
		k.d.Kill()
		if after {
			return status.Error(codes.Unavailable, "killed") // the answer was lost with the connection
		}
		return nil
	}
}

// client returns a client whose calls are counted.
func (k *killing) client() *client.Client {
	k.calls.hook(k.pass(false), k.pass(true))
	return k.d.Client(k.calls.Opt())
}

// scene is a cache before the operation that the daemon dies in.
type scene struct {
	c    *containerd.Cache
	o    *origin
	desc ocispecs.Descriptor
	// keep is a layer that somebody holds all the time.
	keep cache.ImmutableRef
	mut  cache.MutableRef
	ref  cache.ImmutableRef
}

// newScene opens a cache with a layer that is held, and prepares it for an operation.
func newScene(t *testing.T, cl *client.Client, dir string, opts containerd.Options, prepare func(context.Context, *testing.T, *scene)) *scene {
	t.Helper()
	c, err := containerd.Open(t.Context(), cl, dir, opts)
	require.NoError(t, err)
	s := &scene{c: c, o: &origin{}}
	s.desc = s.o.layer(t, tree.File("file", "content"))
	s.keep = s.o.get(t, c, s.o.layer(t, tree.File("kept", "k")), nil)
	require.NoError(t, s.keep.Extract(t.Context(), nil))
	if prepare != nil {
		prepare(t.Context(), t, s)
	}
	return s
}

// end releases everything, and checks that the next process finds nothing wrong, and that nothing is left when it has pruned.
func (s *scene) end(t *testing.T, d *Daemon, cl *client.Client, dir string, opts containerd.Options, what string) {
	t.Helper()
	ctx := t.Context()
	requireTree(t, s.keep, tree.File("kept", "k"))
	if s.mut != nil {
		require.NoError(t, s.mut.Release(ctx))
	}
	if s.ref != nil {
		require.NoError(t, s.ref.Release(ctx))
	}
	require.NoError(t, s.keep.Release(ctx))
	require.NoError(t, s.c.Close())
	c, err := containerd.Open(ctx, cl, dir, opts)
	require.NoError(t, err)
	found, err := c.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found, what)
	require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
	require.Zero(t, c.Stats().Records)
	require.NoError(t, c.Close())
	require.Empty(t, leasesIn(t, d, opts.Namespace), what)
	require.Empty(t, snapshotsIn(t, d, opts.Namespace, opts.Snapshotter), what)
	require.Empty(t, blobsIn(t, d, opts.Namespace), what)
}

// operations are what the daemon dies in the middle of. Each may be done again after an error, and then succeeds.
var operations = map[string]struct {
	prepare func(ctx context.Context, t *testing.T, s *scene)
	do      func(ctx context.Context, s *scene) error
	// check is called when it succeeded.
	check func(ctx context.Context, t *testing.T, s *scene)
}{
	"pull": {
		prepare: func(_ context.Context, t *testing.T, s *scene) { s.ref = s.o.get(t, s.c, s.desc, s.keep) },
		do: func(ctx context.Context, s *scene) error {
			remotes, err := s.ref.GetRemotes(ctx, false, remote.RefConfig{}, false, nil)
			if err != nil {
				return err
			}
			u, ok := remotes[0].Provider.(cache.Unlazier)
			if !ok {
				return errors.New("a provider that cannot be asked to fetch")
			}
			return u.Unlazy(ctx)
		},
		check: func(ctx context.Context, t *testing.T, s *scene) {
			_, err := s.c.Parts.ContentStore.Info(ctx, s.desc.Digest)
			require.NoError(t, err)
		},
	},
	"extract": {
		prepare: func(_ context.Context, t *testing.T, s *scene) { s.ref = s.o.get(t, s.c, s.desc, s.keep) },
		do:      func(ctx context.Context, s *scene) error { return s.ref.Extract(ctx, nil) },
		check: func(_ context.Context, t *testing.T, s *scene) {
			requireTree(t, s.ref, tree.File("kept", "k"), tree.File("file", "content"))
		},
	},
	"new": {
		do: func(ctx context.Context, s *scene) (err error) {
			s.mut, err = s.c.New(ctx, s.keep, nil)
			return err
		},
		check: func(_ context.Context, t *testing.T, s *scene) { requireTree(t, s.mut, tree.File("kept", "k")) },
	},
	"commit": {
		prepare: func(ctx context.Context, t *testing.T, s *scene) {
			var err error
			s.mut, err = s.c.New(ctx, s.keep, nil)
			require.NoError(t, err)
			fill(t, s.mut, "file", "content")
			s.ref, err = s.mut.Commit(ctx)
			require.NoError(t, err)
			s.mut = nil
		},
		do: func(ctx context.Context, s *scene) error { return s.ref.Finalize(ctx) },
		check: func(_ context.Context, t *testing.T, s *scene) {
			requireTree(t, s.ref, tree.File("kept", "k"), tree.File("file", "content"))
		},
	},
	"prune": {
		prepare: func(ctx context.Context, t *testing.T, s *scene) {
			for i := range 3 {
				require.NoError(t, writeLayer(t, s.c, s.keep, "file", fmt.Sprint(i)).Release(ctx))
			}
		},
		do: func(ctx context.Context, s *scene) error { return s.c.Prune(ctx, nil, usage.PruneInfo{All: true}) },
		check: func(ctx context.Context, t *testing.T, s *scene) {
			infos, err := s.c.DiskUsage(ctx, usage.DiskUsageInfo{})
			require.NoError(t, err)
			require.Len(t, infos, 1)
		},
	},
}

// TestDaemonKilled: the daemon is killed at each call of an operation, before it gets the call and after it did what it was asked. The operation
// fails with "unavailable" or gets over it; what was there is there still; with the daemon back the manager, which was not
// opened again, does it; and in the end nothing is left over, for this process and for the next (fault 29; spec REF-12, INIT-3, INIT-11).
func TestDaemonKilled(t *testing.T) {
	d := Start(t)
	for _, sn := range []string{"overlayfs", "native"} {
		for name := range operations {
			t.Run(sn+"/"+name, func(t *testing.T) {
				k := &killing{d: d}
				cl := k.client()
				_, seen := killedAt(t, k, cl, sn, name, 0, false)
				require.NotEmpty(t, seen)
				deaths := 0
				for at := 1; at <= len(seen); at++ {
					for _, after := range []bool{false, true} {
						if after && strings.HasPrefix(seen[at-1], "Content/") {
							continue // a stream has no one answer to lose
						}
						died, _ := killedAt(t, k, cl, sn, name, at, after)
						require.True(t, died || name == "prune", "call %d of %v", at, seen)
						if died {
							deaths++
						}
					}
				}
				require.GreaterOrEqual(t, deaths, len(seen), "the operation had fewer calls than when it was not disturbed")
			})
		}
	}
}

// killedAt runs one operation, and tells whether the daemon died and which calls there were.
func killedAt(t *testing.T, k *killing, cl *client.Client, sn, name string, at int, after bool) (died bool, seen []string) {
	t.Helper()
	what := fmt.Sprintf("%s on %s, call %d, after %v", name, sn, at, after)
	ctx, dir, op := t.Context(), t.TempDir(), operations[name]
	opts := containerd.Options{Namespace: namespaceOf(dir), Snapshotter: sn, Reach: containerd.ReachDirect}
	s := newScene(t, cl, dir, opts, op.prepare)

	k.arm(at, after)
	err := op.do(ctx, s)
	k.mu.Lock()
	died, seen = k.died, slices.Clone(k.seen)
	k.mu.Unlock()
	k.arm(0, false)
	if died {
		if err != nil {
			require.True(t, errdefs.IsUnavailable(err), "%s: %v", what, err)
		}
		k.d.Run()
	}
	requireTree(t, s.keep, tree.File("kept", "k"))
	if err != nil {
		require.NoError(t, op.do(ctx, s), what)
	}
	op.check(ctx, t, s)
	s.end(t, k.d, cl, dir, opts, what)
	return died, seen
}

// TestDaemonKilledWhileWriting: the daemon is killed while a blob is being written to it, and comes back: the transfer is taken up again, within
// the same call, and the blob is what it should be (fault 11; spec PULL-2).
func TestDaemonKilledWhileWriting(t *testing.T) {
	d := Start(t)
	ctx := t.Context()
	c, err := containerd.Open(ctx, d.Client(), t.TempDir(), containerd.Options{Snapshotter: "overlayfs"})
	require.NoError(t, err)
	var o origin
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	desc := o.layer(t, tree.File("file", big))
	ref := o.get(t, c, desc, nil)
	reads := 0
	o.read = func(off int64) {
		if reads++; reads == 8 {
			require.Positive(t, off)
			d.Restart()
		}
	}
	require.NoError(t, ref.Extract(ctx, nil))
	require.Greater(t, reads, 8)
	requireTree(t, ref, tree.File("file", big))
	require.NoError(t, ref.Release(ctx))
	found, err := c.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, c.Prune(ctx, nil, usage.PruneInfo{All: true}))
	require.NoError(t, c.Close())
	require.Empty(t, blobsIn(t, d, containerd.DefaultNamespace))
}
