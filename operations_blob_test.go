package cache_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// This file holds the operations on layers that come from blobs.

// sceneBlobs is a registry with the layers that scenes are made of, the same in every process.
type sceneBlobs struct {
	*registry
	// descs are the layers, by the name of the file that each has, whose text is its name.
	descs map[string]ocispecs.Descriptor
}

var theSceneBlobs struct {
	sync.Mutex
	made *sceneBlobs
}

// newSceneBlobs returns what all scenes share: it does not change.
func newSceneBlobs(t testing.TB) *sceneBlobs {
	theSceneBlobs.Lock()
	defer theSceneBlobs.Unlock()
	if b := theSceneBlobs.made; b != nil {
		return b
	}
	r := newRegistry()
	b := &sceneBlobs{registry: r, descs: map[string]ocispecs.Descriptor{
		"gz": r.layer(t, "gzip", tree.File("gz", "gz"), tree.Dir("dir"), tree.File("dir/base", "base")),
		"zs": r.layer(t, "zstd", tree.File("zs", "zs"), tree.Whiteout("dir/base")),
		// It cannot be unpacked without what it lies on.
		"ln": r.layer(t, "", tree.File("ln", "ln"), tree.Hardlink("dir/link", "zs")),
	}}
	theSceneBlobs.made = b
	return b
}

// through returns handlers for all of the blobs, with fault points.
func (b *sceneBlobs) through(f *testutil.Faults) cache.DescHandlers {
	dhs := b.handlers(slices.Collect(maps.Values(b.descs))...)
	provider := f.Provider(b.registry)
	for _, dh := range dhs {
		dh.Provider = func(session.Group) content.Provider { return provider }
	}
	return dhs
}

// fileOf returns the name of the file in the layer with a blob, given as in a row.
func (b *sceneBlobs) fileOf(blob string) (name string, ok bool) {
	for name, desc := range b.descs {
		if strings.Contains(blob, desc.Digest.String()) {
			return name, true
		}
	}
	return "", false
}

// lazyLayer adds a layer to the scene that is known by its blob.
func (s *scene) lazyLayer(name, blob string, parent cache.ImmutableRef, opts ...cache.RefOption) cache.ImmutableRef {
	s.t.Helper()
	if s.blobs == nil {
		s.blobs, s.lazy = newSceneBlobs(s.t), map[string]cache.ImmutableRef{}
	}
	ref, err := s.env.Manager.GetByBlob(ctx, s.blobs.descs[blob], parent, append(opts, s.blobs.through(s.env.Faults))...)
	require.NoError(s.t, err)
	s.names[name] = names{Imm: ref.ID()}
	s.lazy[name] = ref
	return ref
}

// getByBlob is the operation on one layer of the registry. It lets go of what it gets.
func (s *scene) getByBlob(ctx context.Context, blob string, parent cache.ImmutableRef, opts ...cache.RefOption) error {
	ref, err := s.env.Manager.GetByBlob(ctx, s.blobs.descs[blob], parent, opts...)
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

// onlyBlobs has the scene know the registry and nothing of its layers.
func onlyBlobs(s *scene) { s.blobs, s.lazy = newSceneBlobs(s.t), map[string]cache.ImmutableRef{} }

func lazyBase(s *scene) { s.lazyLayer("gz", "gz", nil, cache.WithImageRef("registry.test/a")) }

// localBase has the blob of a layer local, and the layer not unpacked.
func localBase(s *scene) {
	_, err := s.lazyLayer("gz", "gz", nil).FileList(ctx, nil)
	require.NoError(s.t, err)
}

// lazyChain is three layers, none of them unpacked.
func lazyChain(s *scene) {
	s.lazyLayer("ln", "ln", s.lazyLayer("zs", "zs", s.lazyLayer("gz", "gz", nil)))
}

// lostTop is a layer on another whose snapshot vanishes once it is unpacked.
func lostTop(s *scene) {
	top := s.lazyLayer("zs", "zs", s.lazyLayer("gz", "gz", nil))
	require.NoError(s.t, top.Extract(ctx, nil))
	loseSnapshot(s.t, s.env, top.ID())
	s.lost = top.ID()
}

// loseSnapshot has the snapshot of a layer collected that nothing lies on, and its lease look as before.
func loseSnapshot(t testing.TB, env *testutil.Env, id string) {
	t.Helper()
	snap := leases.Resource{ID: snapshotOf(t, env, id), Type: "snapshots/" + env.Opt.Snapshotter.Name()}
	require.NoError(t, env.Opt.LeaseManager.DeleteResource(ctx, leases.Lease{ID: id}, snap))
	require.NoError(t, env.GC(ctx))
	_, err := env.Opt.Snapshotter.Stat(ctx, snap.ID)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leases.Lease{ID: id}, snap))
}

// snapshotOf returns the snapshot of a record by its row.
func snapshotOf(t testing.TB, env *testutil.Env, id string) string {
	t.Helper()
	item, ok := env.Opt.MetadataStore.Get(id)
	require.True(t, ok)
	var snap string
	require.NoError(t, item.Get("cache.snapshot").Unmarshal(&snap))
	return snap
}

// sameBlobTwice is two layers of one blob.
func sameBlobTwice(s *scene) {
	base := s.lazyLayer("gz", "gz", nil)
	s.lazyLayer("again", "gz", base)
}

func init() {
	for name, op := range blobOperations {
		op.blob, op.again = true, true
		operations[name] = op
	}
}

var blobOperations = map[string]operation{
	"blob base": {
		arrange: onlyBlobs,
		do: func(ctx context.Context, s *scene) error {
			return s.getByBlob(ctx, "gz", nil, s.blobs.through(s.env.Faults))
		},
		states:     []string{"", "new lazy"},
		concurrent: true, // lease and row
	},
	"blob on a parent": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			return s.getByBlob(ctx, "zs", s.lazy["gz"], s.blobs.through(s.env.Faults), cache.WithImageRef("registry.test/b"))
		},
		states:     []string{"", "new lazy images=1"},
		concurrent: true, // lease and row
	},
	"blob that is local": {
		arrange: localBase,
		do:      func(ctx context.Context, s *scene) error { return s.getByBlob(ctx, "gz", s.lazy["gz"]) },
		states:  []string{"", "new lazy"},
	},
	"blob again": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			return s.getByBlob(ctx, "gz", nil, s.blobs.through(s.env.Faults), cache.WithImageRef("registry.test/b"))
		},
		states: []string{"", "gz lazy images=2"},
	},
	"blob unlazy": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			return s.getByBlob(ctx, "zs", s.lazy["gz"], s.blobs.through(s.env.Faults), cache.Unlazy(nil))
		},
		states:     []string{"", "new lazy", "gz ready images=1, new lazy", "gz ready images=1, new ready"},
		concurrent: true,
	},
	"blob again unlazy": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			return s.getByBlob(ctx, "gz", nil, s.blobs.through(s.env.Faults), cache.Unlazy(nil))
		},
		states: []string{"", "gz ready images=1"},
	},
	"extract": {
		arrange:    lazyChain,
		do:         func(ctx context.Context, s *scene) error { return s.lazy["ln"].Extract(ctx, nil) },
		states:     []string{"", "gz ready", "gz ready, zs ready", "gz ready, ln ready, zs ready"},
		concurrent: true,
	},
	"extract what was lost": {
		arrange: lostTop,
		do:      func(ctx context.Context, s *scene) error { return s.lazy["zs"].Extract(ctx, nil) },
		states:  []string{""},
		lost:    true,
	},
	"mount lazy": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			_, err := s.lazy["gz"].Mount(ctx, true, nil)
			if err == nil {
				_, err = s.lazy["gz"].Mount(ctx, false, nil)
			}
			return err
		},
		states: []string{"", "gz ready images=1"},
	},
	"new on lazy": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			ref, err := s.env.Manager.New(ctx, s.lazy["gz"], nil)
			if err != nil {
				return err
			}
			return ref.Release(ctx)
		},
		states: []string{"", "gz ready images=1"},
	},
	"file list": {
		arrange: lazyBase,
		do: func(ctx context.Context, s *scene) error {
			_, err := s.lazy["gz"].FileList(ctx, nil)
			return err
		},
		states: []string{"", "gz lazy images=1 listed"},
	},
	"two for one blob": {
		arrange: sameBlobTwice,
		do: func(ctx context.Context, s *scene) error {
			var g errgroup.Group // neither is to end for the other's trouble
			for _, ref := range s.lazy {
				g.Go(func() error {
					_, err := ref.FileList(ctx, nil)
					return err
				})
			}
			return g.Wait()
		},
		states:     []string{"", "again lazy listed", "gz lazy listed", "again lazy listed, gz lazy listed"},
		concurrent: true,
	},
}

// endBlobs checks what must hold after any failure among layers from blobs: what was tried can be tried again and then
// succeeds, no work is left behind, everything held is there, and a restart finds it again.
func (s *scene) endBlobs(t *testing.T, op operation, reopen bool) {
	t.Helper()
	s.env.Faults.Reset()
	if op.again {
		require.NoError(t, op.do(ctx, s), "once more, without trouble")
		cache.Quiesce(s.env.Manager)
	}
	prune(t, s.env, usage.PruneInfo{Filter: []string{"id==none"}}) // goes on with deletions that a failing backend kept from being done
	requireNoWork(t, s.env)
	found, err := s.env.Manager.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, found)
	s.requireExports(t, op)
	ids := map[string]string{}
	for name, ref := range s.lazy {
		s.requireLayer(t, name, ref)
		ids[name] = ref.ID()
		release(t, ref)
	}
	if !reopen {
		return
	}
	release(t, s.mut, s.held)
	s.env.Reopen()
	require.Empty(t, s.env.Problems(ctx))
	for name, id := range ids {
		ref := get(t, s.env, id, s.blobs.through(s.env.Faults))
		s.lazy[name] = ref
		s.requireLayer(t, name, ref)
	}
	s.requireExports(t, op)
	for name := range ids {
		release(t, s.lazy[name])
	}
	s.held = get(t, s.env, s.names["held"].Imm)
	s.mut, err = s.env.Manager.GetMutable(ctx, s.names["mut"].Mut)
	require.NoError(t, err)
}

// requireLayer reads the tree of a layer of the scene.
func (s *scene) requireLayer(t *testing.T, name string, ref cache.ImmutableRef) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(dir string) {
		file, want := name, map[string]string{"gz": "gz", "dir/base": "base"}
		switch name {
		case "again":
			file = "gz"
		case "zs":
			want = map[string]string{"gz": "gz", "zs": "zs"}
		case "merge of lazy": // the base is applied once more
			file, want = "zs", map[string]string{"gz": "gz", "zs": "zs", "dir/base": "base"}
		case "left", "right", "above", "top", "merge", "diff", "upper":
			want = map[string]string{}
			for _, file = range derivedFiles[name] {
				want[file] = file
			}
		case "ln":
			want = map[string]string{"gz": "gz", "zs": "zs", "ln": "ln", "dir/link": "zs"}
		}
		require.Equal(t, want, readFiles(t, dir), name)
		requireText(t, dir, file)
	})
}

// requireNoWork looks for what work on layers from blobs must not leave.
func requireNoWork(t *testing.T, env *testutil.Env) {
	t.Helper()
	for _, name := range snapshotNames(t, env) {
		require.NotContains(t, name, "extract-", "a snapshot that was not committed")
	}
	ingests, err := env.Opt.ContentStore.ListStatuses(ctx)
	require.NoError(t, err)
	require.Empty(t, ingests, "transfers")
	ls, err := env.Opt.LeaseManager.List(ctx)
	require.NoError(t, err)
	for _, l := range ls {
		if !strings.HasSuffix(l.ID, "-view") {
			require.NotContains(t, l.Labels, "buildkit/lease.temporary", "lease %s", l.ID)
		}
	}
}

// blobsOf lists the local blobs.
func blobsOf(t *testing.T, env *testutil.Env) (found []digest.Digest) {
	t.Helper()
	require.NoError(t, env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
		found = append(found, info.Digest)
		return nil
	}))
	return found
}
