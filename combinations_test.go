package cache_test

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// threefold makes a chain of n layers, each of which has a gzip blob of its own, and zstd and plain ones besides.
func threefold(t *testing.T, env *testutil.Env, n int) (refs []cache.ImmutableRef) {
	t.Helper()
	var top cache.ImmutableRef
	for i := range n {
		top = built(t, env, top, dated(strconv.Itoa(i), "x"))
		refs = append(refs, top)
	}
	export(t, top, as(codec.Gzip))
	export(t, top, forced(codec.Zstd))
	export(t, top, forced(codec.Uncompressed))
	require.Len(t, blobNames(t, env), 3*n)
	return refs
}

// chainKey tells chains of blobs apart.
func chainKey(descs []ocispecs.Descriptor) (key string) {
	for _, desc := range descs {
		key += desc.Digest.Encoded()
	}
	return key
}

// TestCombinations: of five layers with three compressions each there are all 81 chains below the top that was asked for, and the one of the
// records' own blobs comes first. All of them can be read.
func TestCombinations(t *testing.T) { // spec RMT-7, RMT-8, scenario S-18, quirk Q41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		refs := threefold(t, env, 5)
		remotes := exportAll(t, refs[4], codec.Zstd)
		require.Len(t, remotes, 1+81)
		main := export(t, refs[4], as(codec.Zstd))
		require.Equal(t, main.Descriptors, remotes[0].Descriptors)
		seen, forms := map[string]bool{}, make([]map[digest.Digest]string, 5)
		for _, r := range remotes[1:] {
			require.Len(t, r.Descriptors, 5)
			require.Equal(t, ocispecs.MediaTypeImageLayerZstd, r.Descriptors[4].MediaType)
			seen[chainKey(r.Descriptors)] = true
			for i, desc := range r.Descriptors {
				if forms[i] == nil {
					forms[i] = map[digest.Digest]string{}
				}
				forms[i][desc.Digest] = desc.MediaType
				require.Equal(t, diffIDOf(main.Descriptors[i]), diffIDOf(desc))
			}
		}
		require.Len(t, seen, 81)
		for i := range 4 {
			require.ElementsMatch(t, []string{ocispecs.MediaTypeImageLayer, ocispecs.MediaTypeImageLayerGzip, ocispecs.MediaTypeImageLayerZstd},
				slices.Collect(maps.Values(forms[i])))
		}
		require.Len(t, forms[4], 1)
		for _, r := range remotes {
			for _, desc := range r.Descriptors {
				readBlob(t, r, desc)
			}
		}
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestRemotesShareNothing: who changes the descriptors of one remote, or appends to its list, changes no other, nor what the next call returns.
func TestRemotesShareNothing(t *testing.T) { // spec RMT-8, quirk Q41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		refs := threefold(t, env, 3)
		copied := func(remotes []*remote.Remote) (out [][]ocispecs.Descriptor) {
			for _, r := range remotes {
				var chain []ocispecs.Descriptor
				for _, desc := range r.Descriptors {
					desc.Annotations, desc.URLs = maps.Clone(desc.Annotations), slices.Clone(desc.URLs)
					chain = append(chain, desc)
				}
				out = append(out, chain)
			}
			return out
		}
		remotes := exportAll(t, refs[2], codec.Uncompressed)
		require.Len(t, remotes, 10)
		want := copied(remotes)
		for i, r := range remotes {
			spoiled := append(r.Descriptors, ocispecs.Descriptor{MediaType: "appended"})
			for j := range spoiled {
				spoiled[j].Digest = "spoiled"
			}
			for j := range r.Descriptors {
				if r.Descriptors[j].Annotations == nil {
					r.Descriptors[j].Annotations = map[string]string{}
				}
				r.Descriptors[j].Annotations["spoiled"] = strconv.Itoa(i)
				r.Descriptors[j].Digest = "spoiled"
			}
			r.Descriptors = append(r.Descriptors[:1], ocispecs.Descriptor{MediaType: "inserted"})
			require.Equal(t, want[i+1:], copied(remotes)[i+1:])
		}
		require.Equal(t, want, copied(exportAll(t, refs[2], codec.Uncompressed)))
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestCombinationsOfLazyLayers: layers that are elsewhere are in every chain as they are, and every provider delivers them.
func TestCombinationsOfLazyLayers(t *testing.T) { // spec RMT-3, RMT-8, scenario S-18, quirk Q42
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 4) // gzip, zstd, plain, gzip
		top := refs[3]
		for _, i := range []int{1, 3} { // others have these, in three forms
			alone := byBlob(t, env, r, descs[i], nil)
			for _, kind := range allKinds[:3] {
				export(t, alone, forced(kind))
			}
			unlazy(t, export(t, alone, as(codec.Gzip)))
			refs = append(refs, alone)
			// Who finds a blob that is here has no lease on its other forms, which Check tells.
			addLease(t, env, refs[i].ID()+"-variants", ourLabels(t, env, refs[i].ID()), contentResource(descs[i]))
		}
		remotes := exportAll(t, top, codec.Uncompressed)
		require.NotContains(t, blobNames(t, env), descs[0].Digest.String())
		require.NotContains(t, blobNames(t, env), descs[2].Digest.String())
		require.Len(t, remotes, 1+3)
		for _, one := range remotes {
			require.Equal(t, [2]digest.Digest{descs[0].Digest, descs[2].Digest}, [2]digest.Digest{one.Descriptors[0].Digest, one.Descriptors[2].Digest})
			for _, desc := range one.Descriptors {
				info, err := one.Provider.Info(ctx, desc.Digest)
				require.NoError(t, err)
				require.Equal(t, desc.Size, info.Size)
				readBlob(t, one, desc)
			}
			for _, i := range []int{0, 2} {
				loseBlob(t, env, descs[i].Digest)
			}
		}
		unlazy(t, remotes[3])
		require.Contains(t, blobNames(t, env), descs[0].Digest.String())
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestOnlyTheMainRemote: when nothing else can be had, or was asked for, there is one.
func TestOnlyTheMainRemote(t *testing.T) { // spec RMT-7, VAR-4
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		refs := threefold(t, env, 2)
		require.Len(t, exportAll(t, refs[1], codec.EStargz), 1, "the top has none of that")
		remotes, err := refs[1].GetRemotes(ctx, true, as(codec.Zstd), false, nil)
		require.NoError(t, err)
		require.Len(t, remotes, 1, "not all")
		remotes, err = refs[1].GetRemotes(ctx, true, forced(codec.Zstd), true, nil)
		require.NoError(t, err)
		require.Len(t, remotes, 1, "forced")
		require.Len(t, exportAll(t, refs[1], nil), 1+3, "no type means gzip, which the top has")

		r := newRegistry()
		lazy := byBlob(t, env, r, r.layer(t, "zstd", tree.File("lazy", "x")), refs[1])
		require.Len(t, exportAll(t, lazy, codec.Zstd), 1, "the top is not here")
		release(t, lazy)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestMaxRemotes: from there on combinations are left out, the upper layers' other compressions first; below it nothing is.
func TestMaxRemotes(t *testing.T) { // spec RMT-9
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		refs := threefold(t, env, 8)
		require.Len(t, exportAll(t, refs[6], codec.Zstd), 1+729)
		remotes := exportAll(t, refs[7], codec.Zstd)
		require.Len(t, remotes, cache.MaxRemotes)
		require.Equal(t, 1024, cache.MaxRemotes)
		seen, of6 := map[string]bool{}, []digest.Digest{}
		for _, r := range remotes[1:] {
			seen[chainKey(r.Descriptors)] = true
			require.Equal(t, ocispecs.MediaTypeImageLayerZstd, r.Descriptors[7].MediaType)
			of6 = append(of6, r.Descriptors[6].Digest)
		}
		require.Len(t, seen, cache.MaxRemotes-1)
		require.Equal(t, remotes[0].Descriptors[6].Digest, of6[728])
		require.NotEqual(t, of6[0], of6[729])
		require.Len(t, slices.Compact(of6), 2, "first those with its own blob, then another")
		last := remotes[cache.MaxRemotes-1]
		for _, desc := range last.Descriptors {
			readBlob(t, last, desc)
		}
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
