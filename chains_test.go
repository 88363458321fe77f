package cache_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// built makes a finalized layer of entries with fixed times, so that equal declarations are equal layers.
func built(t *testing.T, env *testutil.Env, parent cache.ImmutableRef, entries ...tree.Entry) cache.ImmutableRef {
	t.Helper()
	return finalized(t, env, parent, func(dir string) { testutil.WriteTree(t, dir, entries...) })
}

// dated is a file with a fixed time.
func dated(name, text string) tree.Entry {
	return tree.File(name, text, tree.Time(time.Unix(1_600_000_000, 0)))
}

// namesIn lists the files that a ref's root has.
func namesIn(t *testing.T, ref cache.Mountable) (names []string) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(dir string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
	})
	return names
}

// recompressed gives the layer of a descriptor another compression, for the registry to serve.
func (r *registry) recompressed(t testing.TB, desc ocispecs.Descriptor, plain []tree.Entry) ocispecs.Descriptor {
	t.Helper()
	other := r.layer(t, "zstd", plain...)
	require.Equal(t, diffIDOf(desc), diffIDOf(other))
	require.NotEqual(t, desc.Digest, other.Digest)
	return other
}

// bothOrders runs try, which returns two random IDs, until each order of them came up often enough.
func bothOrders(t *testing.T, try func(i int) (a, b string)) {
	t.Helper()
	const often = 4
	var less, more int
	for i := 0; less < often || more < often; i++ {
		require.Less(t, i, 200, "IDs are not random: %d, %d", less, more)
		if a, b := try(i); a < b {
			less++
		} else {
			more++
		}
	}
}

// TestDiffOfOneLayerIsThatLayer: a diff that consists of its upper's one layer has the address of that layer and not of what it lay on, so that who
// asks for the whole by its blobs never gets the part, in whatever order the two are found; nor does another compression of the top
// share the part's snapshot (spec CHAIN-6, MGR-24, MGR-29, scenario S-16, quirk Q21).
func TestDiffOfOneLayerIsThatLayer(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		bothOrders(t, func(i int) (string, string) {
			r, n := newRegistry(), strconv.Itoa(i)
			files := []tree.Entry{tree.File("top", n)}
			a, b := r.layer(t, "gzip", tree.File("base", n)), r.layer(t, "gzip", files...)
			base := byBlob(t, env, r, a, nil)
			top := byBlob(t, env, r, b, base)
			chain, blobChain := top.GetString("cache.chainID"), top.GetString("cache.blobChainID")
			diff := diffOf(t, env, base, top)
			got := export(t, diff, remote.RefConfig{})
			require.Len(t, got.Descriptors, 1)
			require.Equal(t, b.Digest, got.Descriptors[0].Digest)
			requireRow(t, env, diff.ID(), map[string]any{
				"cache.chainID": diffIDOf(b).String(), "cache.blobChainID": blobID(b).String(), "cache.blob": nil,
			})
			require.Equal(t, [2]string{chain, blobChain}, [2]string{top.GetString("cache.chainID"), top.GetString("cache.blobChainID")})
			require.NoError(t, diff.Extract(ctx, nil))
			require.Equal(t, []string{"top"}, namesIn(t, diff))

			for range 3 {
				again := byBlob(t, env, r, b, base)
				require.Equal(t, top.ID(), again.ID())
				require.Equal(t, []string{"base", "top"}, namesIn(t, again))
				release(t, again)
			}
			other := byBlob(t, env, r, r.recompressed(t, b, files), base)
			require.NotEqual(t, snapshotOf(t, env, diff.ID()), snapshotOf(t, env, other.ID()))
			require.Equal(t, []string{"base", "top"}, namesIn(t, other))
			alone := byBlob(t, env, r, b, nil)
			require.Equal(t, []string{"top"}, namesIn(t, alone))
			for _, ref := range []cache.ImmutableRef{base, top, diff, other, alone} {
				release(t, ref)
			}
			return diff.ID(), top.ID()
		})
	})
}

// TestLazyDiffOfOneLayer: the part may be asked for by its blob before it was ever extracted, and by its recipe afterwards.
func TestLazyDiffOfOneLayer(t *testing.T) { // spec CHAIN-6, MGR-29, EXT-4, quirk Q21
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		files := []tree.Entry{tree.File("top", "x"), tree.Whiteout("base")}
		a, b := r.layer(t, "gzip", tree.File("base", "x")), r.layer(t, "gzip", files...)
		base := byBlob(t, env, r, a, nil)
		top := byBlob(t, env, r, b, base)
		diff := diffOf(t, env, base, top)
		export(t, diff, remote.RefConfig{})
		other := byBlob(t, env, r, r.recompressed(t, b, files), nil)
		require.Equal(t, []string{"top"}, namesIn(t, other))
		require.Equal(t, []string{"top"}, namesIn(t, top))
		withDiff := get(t, env, diff.ID(), r.allHandlers())
		requireFile(t, withDiff, "top", "x")
		release(t, base, top, diff, other, withDiff)
	})
}

// TestBuiltLayersOnDifferentBases: equal layers on different bases that were exported through diffs have no address, or that of all that is below; so
// their children are told apart (spec CHAIN-1, CHAIN-3, CHAIN-4, MGR-24, scenario S-17, quirk Q22).
func TestBuiltLayersOnDifferentBases(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		bothOrders(t, func(i int) (string, string) {
			r, n := newRegistry(), strconv.Itoa(i)
			child := r.layer(t, "gzip", tree.File("child", n))
			var lowers, uppers, diffs []cache.ImmutableRef
			for _, name := range []string{"A", "B"} {
				lower := built(t, env, nil, dated("lower", name+n))
				upper := built(t, env, lower, dated("top", n))
				lowers, uppers, diffs = append(lowers, lower), append(uppers, upper), append(diffs, diffOf(t, env, lower, upper))
			}
			var tops []ocispecs.Descriptor
			for j, diff := range diffs {
				tops = append(tops, export(t, diff, remote.RefConfig{}).Descriptors...)
				require.Empty(t, lowers[j].GetString("cache.blob"), "what is not of the diff gets no blob, spec BLOB-1")
				requireRow(t, env, uppers[j].ID(), map[string]any{
					"cache.blob": tops[j].Digest.String(), "cache.chainID": nil, "cache.blobChainID": nil,
				})
				_, err := env.Manager.GetByBlob(ctx, child, uppers[j], r.handlers(child))
				require.ErrorContains(t, err, "non-addressable", "nothing is known of its base")
				require.True(t, errdefs.IsFailedPrecondition(err))
			}
			require.Len(t, tops, 2)
			require.Equal(t, diffIDOf(tops[0]), diffIDOf(tops[1]))
			order := []int{i % 2, 1 - i%2}
			refs := slices.Concat(lowers, uppers, diffs)
			for _, j := range order {
				got := export(t, uppers[j], remote.RefConfig{}).Descriptors
				requireRow(t, env, uppers[j].ID(), map[string]any{
					"cache.chainID":     fold(diffIDOf(got[0]), diffIDOf(got[1])).String(),
					"cache.blobChainID": fold(blobID(got[0]), blobID(got[1])).String(),
				})
			}
			for j, name := range []string{"A", "B"} {
				ref := byBlob(t, env, r, child, uppers[j])
				requireFile(t, ref, "lower", name+n)
				again := byBlob(t, env, r, tops[j], lowers[j])
				require.Equal(t, uppers[j].ID(), again.ID())
				refs = append(refs, ref, again)
			}
			alone := byBlobHere(t, env, tops[0], nil)
			require.Equal(t, []string{"top"}, namesIn(t, alone))
			release(t, alone)
			for _, ref := range refs {
				release(t, ref)
			}
			return uppers[0].ID(), uppers[1].ID()
		})
	})
}

// poison gives a record the address that BuildKit made of a part of its layers.
func poison(t *testing.T, env *testutil.Env, id string, layers ...ocispecs.Descriptor) {
	t.Helper()
	var diffs, blobs []digest.Digest
	for _, desc := range layers {
		diffs, blobs = append(diffs, diffIDOf(desc)), append(blobs, blobID(desc))
	}
	top := layers[len(layers)-1]
	blobRow(t, env, id, top, fold(diffs...).String(), fold(blobs...).String(), map[string]any{
		"cache.snapshot": id, "cache.createdAt": 1,
	})
}

// TestPoisonedAddresses: a database in which BuildKit stored addresses of parts of the layers is exported from as it should be, and what it
// says wrongly confuses nobody (spec CHAIN-4, CHAIN-6, MGR-24, scenarios S-16 and S-17, quirks Q21 and Q22).
func TestPoisonedAddresses(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		bothOrders(t, func(i int) (string, string) {
			r, n := newRegistry(), strconv.Itoa(i)
			child := r.layer(t, "gzip", tree.File("child", n))
			var lowers, uppers, diffs []string
			var tops [][]ocispecs.Descriptor
			for _, name := range []string{"A", "B"} {
				lower := built(t, env, nil, dated("lower", name+n))
				upper := built(t, env, lower, dated("top", n))
				diff := diffOf(t, env, lower, upper)
				tops = append(tops, export(t, upper, remote.RefConfig{}).Descriptors)
				lowers, uppers, diffs = append(lowers, lower.ID()), append(uppers, upper.ID()), append(diffs, diff.ID())
				require.NoError(t, diff.Extract(ctx, nil))
				release(t, lower, upper, diff)
			}
			for j := range uppers {
				poison(t, env, uppers[j], tops[j][1]) // as if nothing were below
				full := []digest.Digest{fold(diffIDOf(tops[j][0]), diffIDOf(tops[j][1])), fold(blobID(tops[j][0]), blobID(tops[j][1]))}
				editRow(t, env, diffs[j], map[string]any{"cache.chainID": full[0].String(), "cache.blobChainID": full[1].String()})
			}
			env.Reopen()
			var refs []cache.ImmutableRef
			for j, name := range []string{"A", "B"} {
				lower, upper, diff := get(t, env, lowers[j]), get(t, env, uppers[j]), get(t, env, diffs[j])
				require.Equal(t, digestsOf(tops[j]), digestsOf(export(t, upper, remote.RefConfig{}).Descriptors))
				require.Equal(t, digestsOf(tops[j][1:]), digestsOf(export(t, diff, remote.RefConfig{}).Descriptors))
				ref := byBlob(t, env, r, child, upper)
				require.Equal(t, []string{"child", "lower", "top"}, namesIn(t, ref))
				requireFile(t, ref, "lower", name+n)
				onDiff := byBlob(t, env, r, child, diff)
				require.Equal(t, []string{"child", "top"}, namesIn(t, onDiff))
				whole := byBlobHere(t, env, tops[j][1], lower)
				requireFile(t, whole, "lower", name+n)
				alone := byBlobHere(t, env, tops[j][1], nil)
				require.Equal(t, []string{"top"}, namesIn(t, alone))
				refs = append(refs, lower, upper, diff, ref, onDiff, whole, alone)
			}
			for _, ref := range refs {
				release(t, ref)
			}
			require.NotEmpty(t, prune(t, env, pruneAll))
			if i%2 == 0 {
				return uppers[0], diffs[0]
			}
			return uppers[0], uppers[1]
		})
	})
}

func digestsOf(descs []ocispecs.Descriptor) (out []digest.Digest) {
	for _, desc := range descs {
		out = append(out, desc.Digest)
	}
	return out
}

// TestAddressOfAMerge: an exported merge is addressed by all its layers, like no one of its inputs, and who gets these layers one by one by
// their blobs ends at the merge (spec CHAIN-3, CHAIN-5, WALK-1, MGR-23, scenario S-15).
func TestAddressOfAMerge(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		var inputs, refs []cache.ImmutableRef
		for _, branch := range []string{"a", "b", "c"} {
			var top cache.ImmutableRef
			for i := range 3 {
				top = built(t, env, top, dated(branch+strconv.Itoa(i), branch))
				refs = append(refs, top)
			}
			inputs = append(inputs, top)
		}
		merge, err := env.Manager.Merge(ctx, inputs, nil)
		require.NoError(t, err)
		refs = append(refs, merge)
		got := export(t, merge, as(codec.Zstd)).Descriptors
		require.Len(t, got, 9)
		var diffs, blobs []digest.Digest
		for _, desc := range got {
			diffs, blobs = append(diffs, diffIDOf(desc)), append(blobs, blobID(desc))
		}
		requireRow(t, env, merge.ID(), map[string]any{
			"cache.chainID": fold(diffs...).String(), "cache.blobChainID": fold(blobs...).String(), "cache.blob": nil,
		})
		for i, input := range inputs {
			requireRow(t, env, input.ID(), map[string]any{"cache.blobChainID": fold(blobs[3*i : 3*i+3]...).String()})
		}
		var below cache.ImmutableRef
		for _, desc := range got {
			below = byBlobHere(t, env, desc, below)
			refs = append(refs, below)
		}
		require.Equal(t, merge.ID(), below.ID())
		require.Len(t, namesIn(t, below), 9)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestNoAddressThroughLegacyLayers: what lies on layers that nobody verified gets blobs, but is not addressed, be it a layer, a merge or a diff.
func TestNoAddressThroughLegacyLayers(t *testing.T) { // spec CHAIN-1, CHAIN-2, CHAIN-5, CHAIN-7, REC-10, scenario S-10
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		honest := r.layer(t, "gzip", tree.File("f", "honest"))
		done := ingest(t, env, r, honest)
		chain := diffIDOf(honest).String()
		old := finalized(t, env, nil, fileIn(t, "f", "poison"))
		release(t, old)
		makeLegacy(t, env, old.ID(), chain, "poison")
		blobRow(t, env, old.ID(), honest, chain, blobID(honest).String(), map[string]any{"cache.snapshot": chain})
		require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leaseNamed(old.ID()), contentResource(honest)))
		done()
		env.Reopen()

		legacy := get(t, env, old.ID())
		child := built(t, env, legacy, dated("child", "x"))
		sound := built(t, env, nil, dated("sound", "x"))
		merge, err := env.Manager.Merge(ctx, []cache.ImmutableRef{sound, child}, nil)
		require.NoError(t, err)
		other, err := env.Manager.Merge(ctx, []cache.ImmutableRef{child, sound}, nil)
		require.NoError(t, err)
		diff := diffOf(t, env, sound, child)
		refs := []cache.ImmutableRef{legacy, child, sound, merge, other, diff}
		for i, ref := range refs {
			got := export(t, ref, remote.RefConfig{})
			require.Len(t, got.Descriptors, []int{1, 2, 1, 3, 3, 1}[i])
			for _, desc := range got.Descriptors {
				readBlob(t, got, desc)
			}
			switch ref {
			case legacy:
			case sound:
				require.NotEmpty(t, ref.GetString("cache.chainID"))
			default:
				requireRow(t, env, ref.ID(), map[string]any{"cache.chainID": nil, "cache.blobChainID": nil})
				_, err := env.Manager.GetByBlob(ctx, honest, ref)
				require.ErrorContains(t, err, "non-addressable")
			}
		}
		fresh := byBlobHere(t, env, honest, nil)
		require.NotEqual(t, legacy.ID(), fresh.ID())
		requireFile(t, fresh, "f", "honest")
		release(t, fresh)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestAddressesStay: of what has an address nothing is stored again, and addresses survive a restart with what they index.
func TestAddressesStay(t *testing.T) { // spec CHAIN-1, CHAIN-2, BLOB-10, scenario S-7
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := built(t, env, nil, dated("a", "1"))
		top := built(t, env, base, dated("b", "2"))
		got := export(t, top, as(codec.Uncompressed)).Descriptors
		rows := map[string]any{
			"cache.blob": got[1].Digest.String(), "cache.diffID": diffIDOf(got[1]).String(), "cache.layerIdentity": diffIDOf(got[1]).String(),
			"cache.mediatype": ocispecs.MediaTypeImageLayer, "cache.blobsize": float64(got[1].Size),
			"cache.chainID": fold(diffIDOf(got[0]), diffIDOf(got[1])).String(), "cache.snapshot": top.ID(),
		}
		requireRow(t, env, top.ID(), rows)
		blobOnly, _ := rowValue(t, env, top.ID(), "cache.blobonly")
		require.NotEqual(t, true, blobOnly)
		_, index := rowValue(t, env, top.ID(), "cache.chainID")
		require.True(t, strings.HasPrefix(index, "chainid:"), index)
		env.Faults.Reset()
		for range 2 {
			require.Equal(t, digestsOf(got), digestsOf(export(t, top, as(codec.Zstd)).Descriptors))
		}
		require.Zero(t, env.Faults.Count("db.Update")+env.Faults.Count("leases.*"), "%s", env.Faults.Trace())
		release(t, base, top)
		env.Reopen()
		requireRow(t, env, top.ID(), maps.Clone(rows))
		require.Equal(t, []string{top.ID()}, found(t, env, index))
		base = get(t, env, base.ID())
		again := byBlobHere(t, env, got[1], base)
		require.Equal(t, top.ID(), again.ID())
		testutil.WithMount(t, again, true, func(dir string) { require.FileExists(t, filepath.Join(dir, "a")) })
		release(t, base, again)
	})
}
