package cache_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// remoteSnapshotter behaves like a snapshotter that provides some layers by itself: asked to prepare one of
// those by the label that names it, it makes the committed snapshot and answers that it exists.
type remoteSnapshotter struct {
	snapshot.Snapshotter

	mu sync.Mutex
	// offer is how many layers it still provides.
	offer int
	// fails is the answer to those who ask for a layer that it does not provide; nil prepares as usual.
	fails error
	// asked are the labels it was asked with, in order, and seen what labels the parent had when
	// a snapshot was prepared, viewed or mounted.
	asked, seen []map[string]string
}

func labelsOf(opts []snapshots.Opt) map[string]string {
	var info snapshots.Info
	for _, opt := range opts {
		_ = opt(&info)
	}
	return info.Labels
}

func (s *remoteSnapshotter) look(ctx context.Context, parent string) {
	if parent == "" {
		return
	}
	if info, err := s.Snapshotter.Stat(ctx, parent); err == nil {
		s.mu.Lock()
		s.seen = append(s.seen, maps.Clone(info.Labels))
		s.mu.Unlock()
	}
}

func (s *remoteSnapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	s.look(ctx, parent)
	labels := labelsOf(opts)
	target := labels["containerd.io/snapshot.ref"]
	if target == "" || !strings.HasPrefix(key, "tmp-") {
		s.mu.Lock()
		s.asked = append(s.asked, labels)
		s.mu.Unlock()
		return s.Snapshotter.Prepare(ctx, key, parent, opts...)
	}
	s.mu.Lock()
	s.asked = append(s.asked, labels)
	offered, fails := s.offer > 0, s.fails
	if offered {
		s.offer--
	}
	s.mu.Unlock()
	if !offered && fails != nil {
		return fails
	}
	if err := s.Snapshotter.Prepare(ctx, key, parent, opts...); err != nil || !offered {
		return err
	}
	remote := maps.Clone(labels)
	remote[snapshot.LabelRemote] = "yes"
	if err := s.Snapshotter.Commit(ctx, target, key, snapshots.WithLabels(remote)); err != nil {
		return err
	}
	return errdefs.ErrAlreadyExists
}

func (s *remoteSnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	s.look(ctx, parent)
	s.mu.Lock()
	s.asked = append(s.asked, labelsOf(opts))
	s.mu.Unlock()
	return s.Snapshotter.View(ctx, key, parent, opts...)
}

func remoteEnv(t *testing.T, name string, offer int) (*testutil.Env, *remoteSnapshotter) {
	t.Helper()
	rs := &remoteSnapshotter{offer: offer}
	env := testutil.New(t, testutil.DoublesNamed(name), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		rs.Snapshotter = opt.Snapshotter
		opt.Snapshotter = rs
	}))
	return env, rs
}

// remoteChain gets a chain of three lazy layers whose handlers have labels for the snapshotter.
func remoteChain(t *testing.T, env *testutil.Env, r *registry) (refs []cache.ImmutableRef, descs []ocispecs.Descriptor) {
	t.Helper()
	for _, name := range []string{"a", "b", "c"} {
		descs = append(descs, r.layer(t, "gzip", tree.File(name, name)))
	}
	dhs := r.handlers(descs...)
	for _, dh := range dhs {
		dh.SnapshotLabels = map[string]string{"containerd.io/snapshot/remote/ref": "example.test/image", "other": "stays here"}
	}
	var parent cache.ImmutableRef
	for _, desc := range descs {
		ref, err := env.Manager.GetByBlob(ctx, desc, parent, dhs)
		require.NoError(t, err)
		refs = append(refs, ref)
		parent = ref
	}
	return refs, descs
}

func requireNoTemporaryLabels(t *testing.T, env *testutil.Env) {
	t.Helper()
	require.NoError(t, env.Opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		for k := range info.Labels {
			require.NotContains(t, k, "stargz.session.")
			require.False(t, strings.HasPrefix(k, "containerd.io/snapshot/remote/ref."), k)
		}
		return nil
	}))
}

func hasKey(labels map[string]string, prefix, value string) bool {
	for k, v := range labels {
		if strings.HasPrefix(k, prefix) && v == value {
			return true
		}
	}
	return false
}

// TestRemoteSnapshots has the snapshotter provide the lower two of three layers; only the third is fetched. Sessions
// are named on remote snapshots while, and only while, they are worked with.
func TestRemoteSnapshots(t *testing.T) { // spec EXT-2, REM-1, REM-2, MGR-5, MNT-8
	env, rs := remoteEnv(t, "stargz", 2)
	r := newRegistry()
	refs, descs := remoteChain(t, env, r)
	top := refs[2]
	s := session.NewGroup("s-one", "s-two")
	require.NoError(t, top.Extract(ctx, s))
	require.Zero(t, r.opened(descs[0].Digest)+r.opened(descs[1].Digest))
	require.Equal(t, 1, r.opened(descs[2].Digest))
	requireNoTemporaryLabels(t, env)

	first := rs.asked[0]
	require.Equal(t, "example.test/image", first["containerd.io/snapshot/remote/ref"])
	require.NotContains(t, first, "other", "only what snapshotters inherit is passed on")
	require.NotEmpty(t, first["containerd.io/snapshot.ref"])
	require.True(t, hasKey(first, "containerd.io/snapshot/remote/stargz.session.0.", "s-one"), first)
	require.True(t, hasKey(first, "containerd.io/snapshot/remote/stargz.session.1.", "s-two"), first)

	rs.seen = nil
	ref, err := env.Manager.New(ctx, refs[1], session.NewGroup("s-new"), cache.CachePolicyRetain)
	require.NoError(t, err)
	require.Len(t, rs.seen, 1)
	require.True(t, hasKey(rs.seen[0], "containerd.io/snapshot/remote/stargz.session.0.", "s-new"), rs.seen[0])
	require.True(t, hasKey(rs.seen[0], "containerd.io/snapshot/remote/ref.", "example.test/image"), rs.seen[0])

	rs.seen = nil
	_, err = refs[1].Mount(ctx, true, session.NewGroup("s-mount"))
	require.NoError(t, err)
	require.True(t, hasKey(rs.seen[0], "containerd.io/snapshot/remote/stargz.session.0.", "s-mount"), rs.seen[0])
	requireNoTemporaryLabels(t, env)
	release(t, ref)

	// Remote data need a handler even though the snapshot is there (spec REC-5).
	id := refs[1].ID()
	release(t, refs[0], refs[1], refs[2])
	env.Reopen()
	_, err = env.Manager.Get(ctx, id, nil)
	var missing cache.NeedsRemoteProviderError
	require.ErrorAs(t, err, &missing)
}

// TestRemoteSnapshotsFallBack extracts as usual what the snapshotter fails to provide.
func TestRemoteSnapshotsFallBack(t *testing.T) { // spec EXT-2, REM-2
	for _, name := range []string{"stargz", "overlaybd"} {
		for what, fails := range map[string]error{"prepares": nil, "fails": errdefs.ErrUnavailable} {
			t.Run(name+"/"+what, func(t *testing.T) {
				env, rs := remoteEnv(t, name, 1)
				rs.fails = fails
				r := newRegistry()
				refs, descs := remoteChain(t, env, r)
				require.NoError(t, refs[2].Extract(ctx, nil))
				require.Equal(t, []int{0, 1, 1}, []int{r.opened(descs[0].Digest), r.opened(descs[1].Digest), r.opened(descs[2].Digest)})
				require.NoError(t, env.GC(ctx))
				requireNoTemporaryLabels(t, env)
				require.NoError(t, env.Opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
					require.Equal(t, snapshots.KindCommitted, info.Kind, info.Name)
					return nil
				}))
				requireFile(t, refs[2], "c", "c")
				release(t, refs[0], refs[1], refs[2])
			})
		}
	}
}

// TestWritableByLabel: a snapshotter of block devices is asked for writable ones by a label, and told what a layer
// that is unpacked will be.
func TestWritableByLabel(t *testing.T) { // spec MGR-5, MNT-2, EXT-7
	env, rs := remoteEnv(t, "overlaybd", 0)
	r := newRegistry()
	refs, _ := remoteChain(t, env, r)
	require.NoError(t, refs[0].Extract(ctx, nil))
	extract := rs.asked[len(rs.asked)-1]
	require.True(t, strings.HasPrefix(extract["containerd.io/snapshot.ref"], "buildkit-layer-snapshot-v1-sha256-"), extract)
	ref, err := env.Manager.New(ctx, refs[0], nil)
	require.NoError(t, err)
	require.Equal(t, "dev", rs.asked[len(rs.asked)-1]["containerd.io/snapshot/overlaybd.writable"])
	_, err = refs[0].Mount(ctx, true, nil)
	require.NoError(t, err)
	require.Equal(t, "dev", rs.asked[len(rs.asked)-1]["containerd.io/snapshot/overlaybd.writable"])
	release(t, ref, refs[0], refs[1], refs[2])
}

// TestTableOfContentsIsIdentity: where the snapshotter goes by an estargz layer's table of contents, two that differ in it
// alone are different layers; elsewhere they are the same tree.
func TestTableOfContentsIsIdentity(t *testing.T) { // spec MGR-18, scenario S-9
	for name, same := range map[string]bool{"stargz": false, "native": true} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, testutil.DoublesNamed(name))
			r := newRegistry()
			var chain, blobChain []string
			var refs []cache.Ref
			desc := r.layer(t, "gzip", tree.File("f", "f"))
			for _, toc := range []string{"1", "2"} {
				d := desc
				d.Annotations = maps.Clone(desc.Annotations)
				d.Annotations["containerd.io/snapshot/stargz/toc.digest"] = diffIDOf(r.blob(t, "", []byte(toc))).String()
				ref := byBlob(t, env, r, d, nil)
				chain = append(chain, ref.GetString("cache.chainID"))
				blobChain = append(blobChain, ref.GetString("cache.blobChainID"))
				refs = append(refs, ref)
			}
			require.Equal(t, same, chain[0] == chain[1])
			require.Equal(t, blobChain[0], blobChain[1])
			require.Equal(t, same, refs[0].ID() == refs[1].ID())
			require.Equal(t, same, refs[0].GetString("cache.snapshot") == refs[1].GetString("cache.snapshot"))
			release(t, refs...)
		})
	}
}
