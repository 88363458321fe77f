package imagerefchecker_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot/imagerefchecker"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// layers makes lazy records of a chain of layers and returns their IDs, bottom first.
func layers(t testing.TB, env *testutil.Env, names ...string) []string {
	t.Helper()
	handlers := cache.DescHandlers{}
	for _, name := range names {
		handlers[blob(name)] = &cache.DescHandler{}
	}
	var refs cache.RefList
	var parent cache.ImmutableRef
	var ids []string
	for _, name := range names {
		ref, err := env.Manager.GetByBlob(t.Context(), ocispecs.Descriptor{
			MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: blob(name), Size: 100,
			Annotations: map[string]string{labels.LabelUncompressed: digest.FromString("unpacked " + name).String()},
		}, parent, handlers)
		require.NoError(t, err)
		refs, parent, ids = append(refs, ref), ref, append(ids, ref.ID())
	}
	require.NoError(t, refs.Release(context.Background()))
	return ids
}

func shared(t testing.TB, env *testutil.Env) map[string]bool {
	t.Helper()
	infos, err := env.Manager.DiskUsage(t.Context(), usage.DiskUsageInfo{})
	require.NoError(t, err)
	all := map[string]bool{}
	for _, info := range infos {
		all[info.ID] = info.Shared
	}
	return all
}

// pruned are the IDs of the records that a prune removes.
func pruned(t testing.TB, env *testutil.Env, policy usage.PruneInfo) ([]string, error) {
	t.Helper()
	ch := make(chan usage.Info, 100)
	err := env.Manager.Prune(t.Context(), ch, policy)
	close(ch)
	var ids []string
	for info := range ch {
		ids = append(ids, info.ID)
	}
	return ids, err
}

// What an image consists of is shared, with the layers below, and is spared until the image is gone. While
// the images are not known nothing is deleted.
func TestThroughManager(t *testing.T) { // spec IRC-1, IRC-2, PRN-3, PRN-8, DU-4; quirks Q45, Q63
	s := newStores(t)
	f := &failing{Store: s.images, Provider: s.content}
	env := testutil.New(t, testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
		opt := s.opt()
		opt.ImageStore, opt.ContentStore = f, f
		o.PruneRefChecker = imagerefchecker.New(opt)
	}))
	image := layers(t, env, "a", "b", "c")
	above := layers(t, env, "a", "b", "c", "d")[3]
	other := layers(t, env, "x", "y")
	s.tag(t, "app", s.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(
		describe(ocispecs.MediaTypeImageManifest, encode(t, manifestOf(blobs("x", "y")...))), // not pulled
		s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a", "b", "c")...)),
	)))
	require.Equal(t, map[string]bool{image[0]: true, image[1]: true, image[2]: true, above: false, other[0]: false, other[1]: false}, shared(t, env))

	f.list = errors.New("lost")
	ids, err := pruned(t, env, usage.PruneInfo{})
	require.ErrorIs(t, err, f.list)
	require.Empty(t, ids)
	_, err = env.Manager.DiskUsage(t.Context(), usage.DiskUsageInfo{})
	require.ErrorIs(t, err, f.list)
	f.list = nil

	warnings(t)
	s.tag(t, "broken", s.add(t, ocispecs.MediaTypeImageManifest, []byte("{")))
	ids, err = pruned(t, env, usage.PruneInfo{})
	require.NoError(t, err)
	require.Empty(t, ids)
	for id, isShared := range shared(t, env) {
		require.True(t, isShared, id)
	}
	ids, err = pruned(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + above}})
	require.NoError(t, err)
	require.Equal(t, []string{above}, ids)
	require.NoError(t, s.images.Delete(s.ctx, "broken"))

	ids, err = pruned(t, env, usage.PruneInfo{})
	require.NoError(t, err)
	require.ElementsMatch(t, other, ids)
	require.NoError(t, s.images.Delete(s.ctx, "app"))
	ids, err = pruned(t, env, usage.PruneInfo{})
	require.NoError(t, err)
	require.ElementsMatch(t, image, ids)
	require.Empty(t, shared(t, env))
}
