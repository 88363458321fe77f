package registry

import (
	"net/http"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
)

// Issue 4, "a real registry": images in every compression are got without a request, pulled and extracted when their tree is
// wanted, each blob once, and give the tree that a naive oracle says, layer by layer; garbage collection, a restart and pruning
// change nothing of that. Faults 1, 4; scenario S-6; spec MGR-26, MGR-27, MGR-30, EXT-6, EXT-7, PULL-1, PULL-2, PULL-3, REF-19.
func TestLazyPull(t *testing.T) {
	for i, tc := range []struct {
		name    string
		layers  int
		formats []format
	}{
		{"gzip", 5, []format{gzipped}},
		{"zstd", 5, []format{zstded}},
		{"uncompressed", 5, []format{plain}},
		{"all mixed", 6, []format{gzipped, zstded, plain}},
		{"one layer", 1, []format{gzipped}},
		{"30 layers", 30, []format{gzipped, zstded}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := newImage(t, 100+uint64(i), plain, tc.layers).mix(t, tc.formats...)
			onEach(t, func(t *testing.T, r *rig) { lazyPull(t, r, img) })
		})
	}
}

func lazyPull(t *testing.T, r *rig, img *image) {
	ctx := t.Context()
	remote := r.publish(t, img)
	ref := r.get(remote)
	r.gc()
	again := r.get(remote)
	require.Equal(t, ref.ID(), again.ID(), "one record")
	r.release(again)
	r.requireUntouched()
	inUse, idle := testutil.Usage(t, r.Env)
	require.Equal(t, [2]int{len(img.layers), 0}, [2]int{inUse, idle}, "a held layer holds those below")

	stop := r.collectAlways()
	defer stop()
	require.NoError(t, ref.Extract(ctx, nil))
	stop()
	requireFetched(t, r.front, img.layers)
	r.requireTidy()
	r.gc()
	chain := ref.LayerChain()
	require.Len(t, chain, len(img.layers))
	for i, l := range chain {
		require.Equal(t, "pulled from "+remote.ref, l.GetDescription())
		if i < 5 || i%10 == 0 { // native copies each tree to show it
			r.requireTree(img.trees[i], l)
		}
	}
	require.NoError(t, chain.Release(ctx))

	r.forget()
	require.NoError(t, ref.Extract(ctx, nil))
	id := ref.ID()
	r.release(ref)
	r.gc()
	r.Reopen()
	ref, err := r.Manager.Get(ctx, id, nil)
	require.NoError(t, err, "everything is local")
	r.gc()
	require.NoError(t, ref.Extract(ctx, nil))
	r.requireTree(img.tree, ref)
	require.Zero(t, r.requests(), "nothing is fetched again")
	r.release(ref)
	r.requireEmpty()
}

// requireFetched makes sure that exactly the blobs of these layers were asked for, each once.
func requireFetched(t testing.TB, f *front, layers []layer) {
	t.Helper()
	for _, l := range layers {
		require.Equal(t, 1, f.gets(l.desc.Digest), "%s", l.desc.Digest)
	}
	require.Equal(t, len(layers), f.blobs())
}

// What makes a lazy layer's tree be wanted, and how much of the image it fetches. Spec EXT-1, EXT-6, MGR-25, REF-20.
func TestOnDemand(t *testing.T) {
	img := newImage(t, 200, zstded, 4)
	for _, tc := range []struct {
		name string
		want func(t *testing.T, r *rig, remote *remoteImage, ref cache.ImmutableRef)
		all  bool // layers, or only the topmost
	}{
		{"Extract", func(t *testing.T, _ *rig, _ *remoteImage, ref cache.ImmutableRef) {
			require.NoError(t, ref.Extract(t.Context(), nil))
		}, true},
		{"Mount", func(_ *testing.T, r *rig, _ *remoteImage, ref cache.ImmutableRef) { r.requireTree(img.tree, ref) }, true},
		{"New on top", func(t *testing.T, r *rig, _ *remoteImage, ref cache.ImmutableRef) {
			mut, err := r.Manager.New(t.Context(), ref, nil)
			require.NoError(t, err)
			r.requireTree(img.tree, mut)
			r.release(mut)
		}, true},
		{"Unlazy on a record that is there", func(_ *testing.T, r *rig, remote *remoteImage, _ cache.ImmutableRef) { // quirk Q02
			ref := r.get(remote, cache.Unlazy(nil))
			r.release(ref)
		}, true},
		{"FileList", func(t *testing.T, _ *rig, _ *remoteImage, ref cache.ImmutableRef) {
			names, err := ref.FileList(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, img.layers[3].names(t), names)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, r *rig) {
				remote := r.publish(t, img)
				ref := r.get(remote)
				r.requireUntouched()
				tc.want(t, r, remote, ref)
				if !tc.all {
					requireFetched(t, r.front, img.layers[3:])
					require.Empty(t, r.snapshots())
				} else {
					requireFetched(t, r.front, img.layers)
				}
				r.gc()
				tc.want(t, r, remote, ref)
				r.requireTree(img.tree, ref)
				requireFetched(t, r.front, img.layers)
				r.release(ref)
				r.requireEmpty()
			})
		})
	}
}

// An image that shares lower layers with another fetches only what is new, and one that has the same layers in another compression
// nothing at all, once the other is extracted. Spec MGR-23, MGR-29, MGR-30, quirk Q24.
func TestSharedLayers(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		first, second := newImage(t, 300, gzipped, 4), newImage(t, 300, gzipped, 6)
		require.Equal(t, first.layers, second.layers[:4])
		a, b := r.publish(t, first), r.publishAs(t, repoName(t)+"/longer", second)
		c := r.publishAs(t, repoName(t)+"/zstd", second.mix(t, zstded))

		ra := r.get(a)
		require.NoError(t, ra.Extract(ctx, nil))
		requireFetched(t, r.front, first.layers)
		r.forget()
		rb := r.get(b)
		require.Zero(t, r.requests())
		require.NoError(t, rb.Extract(ctx, nil))
		requireFetched(t, r.front, second.layers[4:])
		chain := rb.LayerChain()
		require.Equal(t, ra.ID(), chain[3].ID())
		require.NoError(t, chain.Release(ctx))

		r.forget()
		rc := r.get(c)
		require.NotEqual(t, rb.ID(), rc.ID(), "other blobs")
		require.NoError(t, rc.Extract(ctx, nil))
		require.Zero(t, r.requests(), "the same tree is there already")
		r.gc()
		r.requireTree(first.tree, ra)
		r.requireTree(second.tree, rb)
		r.requireTree(second.tree, rc)

		testutil.WithMount(t, rc, true, func(dir string) {
			r.release(ra, rb)
			require.NoError(t, pruneAll(ctx, r.Manager))
			r.gc()
			require.Empty(t, diffTrees(second.tree, testutil.ReadTree(t, dir), r.overlay), "what a record shares with those that are gone stays")
		})
		r.requireTree(second.tree, rc)
		r.release(rc)
		r.requireEmpty()
	})
}

// Fault 12: a layer is known in two compressions of one diff ID. A blob that the registry lost is made up for by the other,
// be it local or had through a handler of its own.
func TestEitherCompression(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		img := newImage(t, 400, gzipped, 3)
		other := img.mix(t, zstded)
		a, b := r.publish(t, img), r.publishAs(t, repoName(t)+"/zstd", other)
		for _, l := range img.layers {
			r.blob(l.desc.Digest, status(http.StatusNotFound))
		}
		refs := r.get(b)
		lost := r.get(a)
		require.ErrorIs(t, requireLayerError(t, lost.Extract(ctx, nil)), errdefs.ErrNotFound)
		r.requireTidy()

		// One layer's other blob comes to be local, the other two are in reach of the handlers.
		chain := refs.LayerChain()
		_, err := chain[1].FileList(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, chain.Release(ctx))
		require.True(t, r.local(other.layers[1].desc.Digest))
		both := a.handlers()
		for d, dh := range b.handlers() {
			both[d] = dh
		}
		found, err := r.Manager.Get(ctx, lost.ID(), nil, both)
		require.NoError(t, err)
		require.NoError(t, found.Extract(ctx, nil))
		r.gc()
		r.requireTree(img.tree, found)
		for _, l := range other.layers {
			require.Equal(t, 1, r.gets(l.desc.Digest))
		}
		r.release(found, lost, refs)
		r.requireEmpty()
	})
}

// Scenario S-25; faults 1, 2, 3; spec INIT-4, MGR-8, quirk Q75: lazy records outlive restarts and crashes, with what protects them; without
// handlers they cannot be opened, and the error names every blob that is elsewhere; with handlers they are pulled as before.
func TestRestartBeforeExtract(t *testing.T) {
	img := newImage(t, 500, gzipped, 6)
	for _, tc := range []struct {
		name string
		stop func(r *rig, ref cache.Ref)
	}{
		{"closed", func(r *rig, ref cache.Ref) {
			r.release(ref)
			r.Reopen()
		}},
		{"crashed", func(r *rig, _ cache.Ref) {
			r.Crash()
			r.Open()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, r *rig) {
				ctx := t.Context()
				remote := r.publish(t, img)
				ref := r.get(remote)
				id := ref.ID()
				for range 2 {
					tc.stop(r, ref)
					r.gc()
					_, err := r.Manager.Get(ctx, id, nil)
					var missing cache.NeedsRemoteProviderError
					require.ErrorAs(t, err, &missing)
					require.ElementsMatch(t, digests(img.layers), missing)
					ref, err = r.Manager.Get(ctx, id, nil, remote.handlers())
					require.NoError(t, err)
				}
				require.Zero(t, r.requests())
				require.NoError(t, pruneAll(ctx, r.Manager))
				inUse, idle := testutil.Usage(t, r.Env)
				require.Equal(t, [2]int{len(img.layers), 0}, [2]int{inUse, idle}, "what a held layer lies on stays")

				stop := r.collectAlways()
				defer stop()
				require.NoError(t, ref.Extract(ctx, nil))
				stop()
				r.gc()
				r.requireTree(img.tree, ref)
				requireFetched(t, r.front, img.layers)
				r.release(ref)
				r.requireEmpty()
			})
		})
	}
}

// Faults 8, 9: somebody deleted the leases of a layer, and its snapshot and blob went with them. Both are made again from the registry;
// without a handler the error says of which record, and names what is missing; the layers below are usable
// all the while. Spec EXT-10, quirk Q33, Q36.
func TestVanishedIsPulledAgain(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		img := newImage(t, 600, gzipped, 3)
		remote := r.publish(t, img)
		ref := r.get(remote)
		require.NoError(t, ref.Extract(ctx, nil))
		id, top := ref.ID(), img.layers[2].desc.Digest
		bare, err := r.Manager.Get(ctx, id, nil)
		require.NoError(t, err)
		chain := ref.LayerChain()

		for _, name := range []string{id, id + "-variants"} {
			require.NoError(t, r.Parts.LeaseManager.Delete(ctx, leases.Lease{ID: name}))
		}
		r.gc()
		require.False(t, r.local(top))
		require.Len(t, r.snapshots(), 2)
		le := requireLayerError(t, bare.Extract(ctx, nil))
		require.Equal(t, id, le.Record)
		require.Equal(t, top, le.Digest)
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, le, &missing)
		require.Equal(t, cache.NeedsRemoteProviderError{top}, missing)
		r.requireTree(img.trees[1], chain[1])

		r.forget()
		require.NoError(t, ref.Extract(ctx, nil))
		requireFetched(t, r.front, img.layers[2:])
		r.requireTidy()
		r.gc()
		r.requireTree(img.tree, bare)
		require.NoError(t, chain.Release(ctx))
		r.release(ref, bare)
		r.requireEmpty()
	})
}

func digests(layers []layer) (ds []digest.Digest) {
	for _, l := range layers {
		ds = append(ds, l.desc.Digest)
	}
	return ds
}
