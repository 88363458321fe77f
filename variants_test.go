package cache_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

const (
	labelRefBlob   = "containerd.io/gc.ref.content.blob-"
	labelMediaType = "buildkit.io/blob/mediatype"
	labelKept      = "buildkit.io/blob/annotation."
)

// allKinds are the library's compressions.
var allKinds = []compression.Type{codec.Gzip, codec.Zstd, codec.Uncompressed, codec.EStargz}

// exportAll returns all remotes of a ref.
func exportAll(t testing.TB, ref cache.ImmutableRef, kind compression.Type) []*remote.Remote {
	t.Helper()
	remotes, err := ref.GetRemotes(ctx, true, as(kind), true, nil)
	require.NoError(t, err)
	return remotes
}

// variantLabelsOf are the labels of a blob that link and describe it.
func variantLabelsOf(t testing.TB, env *testutil.Env, d digest.Digest) map[string]string {
	t.Helper()
	labels := maps.Clone(blobLabels(t, env, d))
	maps.DeleteFunc(labels, func(k, _ string) bool {
		return !strings.HasPrefix(k, "containerd.io/gc.ref.") && !strings.HasPrefix(k, "buildkit.io/blob/")
	})
	return labels
}

// setLabels changes labels of a blob behind the cache's back.
func setLabels(t testing.TB, env *testutil.Env, d digest.Digest, labels map[string]string) {
	t.Helper()
	var paths []string
	for k := range labels {
		paths = append(paths, "labels."+k)
	}
	_, err := env.Opt.ContentStore.Update(ctx, content.Info{Digest: d, Labels: labels}, paths...)
	require.NoError(t, err)
}

// TestVariantLabels: another compression and the record's own blob refer to each other, each says what it is, and the record's lease on variants
// lists both. Other labels stay as they are.
func TestVariantLabels(t *testing.T) { // spec VAR-1, VAR-2, BLOB-10, LEASE-3
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := built(t, env, nil, dated("f", "x"))
		own := export(t, ref, as(codec.Gzip)).Descriptors[0]
		toOwn := map[string]string{
			labelRefBlob + own.Digest.String(): own.Digest.String(), labelMediaType: own.MediaType,
			labelKept + "containerd.io/uncompressed": diffIDOf(own).String(),
		}
		require.Equal(t, toOwn, variantLabelsOf(t, env, own.Digest), "it is linked to itself")
		setLabels(t, env, own.Digest, map[string]string{"of": "somebody else"})
		for _, kind := range []compression.Type{codec.Zstd, codec.EStargz} {
			v := export(t, ref, forced(kind)).Descriptors[0]
			require.NotEqual(t, own.Digest, v.Digest)
			toOwn[labelRefBlob+v.Digest.String()] = v.Digest.String()
			require.Equal(t, toOwn, variantLabelsOf(t, env, own.Digest))
			want := map[string]string{labelRefBlob + own.Digest.String(): own.Digest.String(), labelMediaType: v.MediaType}
			for k, value := range v.Annotations {
				want[labelKept+k] = value
			}
			require.Equal(t, want, variantLabelsOf(t, env, v.Digest))
			require.NotEmpty(t, v.Annotations["containerd.io/uncompressed"])
			if kind == codec.EStargz {
				require.NotEmpty(t, v.Annotations["containerd.io/snapshot/stargz/toc.digest"])
				require.NotEmpty(t, v.Annotations["io.containers.estargz.uncompressed-size"])
			}
		}
		require.Equal(t, "somebody else", blobLabels(t, env, own.Digest)["of"])
		var want []leases.Resource
		for label, d := range toOwn {
			if strings.HasPrefix(label, labelRefBlob) {
				want = append(want, leases.Resource{ID: d, Type: "content"})
			}
		}
		l, resources := leaseOf(t, env, ref.ID()+"-variants")
		require.NotContains(t, l.Labels, "containerd.io/gc.flat")
		require.ElementsMatch(t, want, resources)
		_, resources = leaseOf(t, env, ref.ID())
		require.Contains(t, resources, contentResource(own))
		release(t, ref)
	})
}

// TestDescriptionIsKept: a blob that says already what it is does not become something else by being another record's variant.
func TestDescriptionIsKept(t *testing.T) { // spec VAR-1, quirk Q49
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		a := built(t, env, nil, dated("f", "x"))
		got := export(t, a, as(codec.Gzip))
		own := got.Descriptors[0]
		zr, err := gzip.NewReader(bytes.NewReader(readBlob(t, got, own)))
		require.NoError(t, err)
		plain, err := io.ReadAll(zr)
		require.NoError(t, err)
		described := map[string]string{labelMediaType: dockerGzip, labelKept + "io.containers.estargz.uncompressed-size": "5"}
		setLabels(t, env, own.Digest, described)
		before := variantLabelsOf(t, env, own.Digest)

		r := newRegistry()
		zst := r.blob(t, "zstd", plain)
		b := byBlob(t, env, r, zst, nil)
		require.NotEqual(t, a.ID(), b.ID())
		made := export(t, b, forced(codec.Gzip)).Descriptors[0]
		require.Equal(t, own.Digest, made.Digest, "the same compression makes the same blob")
		require.Equal(t, dockerGzip, made.MediaType)
		require.Equal(t, "5", made.Annotations["io.containers.estargz.uncompressed-size"])
		before[labelRefBlob+zst.Digest.String()] = zst.Digest.String()
		require.Equal(t, before, variantLabelsOf(t, env, own.Digest))
		_, resources := leaseOf(t, env, b.ID()+"-variants")
		require.ElementsMatch(t, []leases.Resource{contentResource(own), contentResource(zst)}, resources)
		release(t, a, b)
	})
}

// TestWalkOfVariants: what labels lead to is found once, however they are linked, and what is no digest, absent or undescribed is not.
func TestWalkOfVariants(t *testing.T) { // spec VAR-3, VAR-4, SIZE-1
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		ref := built(t, env, nil, dated("f", "x"))
		own := export(t, ref, as(codec.Gzip)).Descriptors[0]
		first := export(t, ref, forced(codec.Zstd)).Descriptors[0]
		sizes := usageByID(t, env)[ref.ID()].Size

		far, dumb := r.layer(t, "", tree.File("far", "x")), r.layer(t, "", tree.File("dumb", "x"))
		absent := digest.FromString("absent")
		for _, desc := range []ocispecs.Descriptor{far, dumb} {
			done := ingest(t, env, r, desc)
			require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leaseNamed(ref.ID()+"-variants"), contentResource(desc)))
			done()
		}
		setLabels(t, env, first.Digest, map[string]string{
			labelRefBlob + first.Digest.String(): first.Digest.String(), labelRefBlob + "none": "is no digest",
			labelRefBlob + absent.String(): absent.String(), labelRefBlob + dumb.Digest.String(): dumb.Digest.String(),
		})
		setLabels(t, env, dumb.Digest, map[string]string{labelRefBlob + far.Digest.String(): far.Digest.String()})
		setLabels(t, env, far.Digest, map[string]string{labelRefBlob + own.Digest.String(): own.Digest.String(), labelMediaType: far.MediaType})
		got := exportAll(t, ref, codec.Uncompressed)
		require.Len(t, got, 2)
		require.Equal(t, far.Digest, got[1].Descriptors[0].Digest, "by way of the one that says nothing of itself")
		require.Len(t, exportAll(t, ref, codec.EStargz), 1)

		again := export(t, ref, forced(codec.Uncompressed)).Descriptors[0] // is found and not made
		require.Equal(t, far.Digest, again.Digest)
		made := export(t, ref, forced(codec.EStargz)).Descriptors[0] // and by this its size is not known any more
		require.Equal(t, sizes+far.Size+made.Size, usageByID(t, env)[ref.ID()].Size)
		release(t, ref)
	})
}

// TestSizeOfVariants: a record's size has its other compressions in it, each once, from when they are made.
func TestSizeOfVariants(t *testing.T) { // spec SIZE-1, SIZE-4, VAR-1
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		lazy := byBlob(t, env, r, r.layer(t, "gzip", tree.File("lazy", "x")), nil)
		ref := built(t, env, nil, dated("f", strings.Repeat("x", 10_000)))
		size := func(ref cache.ImmutableRef) int64 { return usageByID(t, env)[ref.ID()].Size }
		want, wantLazy := size(ref), int64(0)
		require.Zero(t, size(lazy))
		for i, kind := range allKinds {
			for range 2 {
				got := export(t, ref, forced(kind)).Descriptors[0]
				if i == 0 {
					got = export(t, ref, as(kind)).Descriptors[0]
				}
				require.Contains(t, []int64{want, want + got.Size}, size(ref))
				if want == size(ref)-got.Size {
					want += got.Size
				}
			}
			wantLazy += export(t, lazy, forced(kind)).Descriptors[0].Size
			unlazy(t, export(t, lazy, as(kind)))
			require.Equal(t, wantLazy, size(lazy), "%s: no snapshot, and %d blobs", kind, i+1)
		}
		require.Equal(t, want, size(ref))
		var blobs int64
		require.NoError(t, env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
			blobs += info.Size
			return nil
		}))
		snap, err := env.Opt.Snapshotter.Usage(ctx, ref.ID())
		require.NoError(t, err)
		require.Equal(t, blobs+snap.Size, want+wantLazy, "all that is on disk")
		release(t, ref, lazy)
		env.Reopen()
		infos := usageByID(t, env)
		require.Equal(t, want+wantLazy, infos[ref.ID()].Size+infos[lazy.ID()].Size)
	})
}

// TestVariantsAreShared: whoever has one of a layer's compressions has all of them, whoever made them, and as long as anybody does; then
// they go, however they refer to each other.
func TestVariantsAreShared(t *testing.T) { // spec VAR-3, VAR-4, RMT-7, scenario S-19
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		a := built(t, env, nil, dated("f", "x"))
		export(t, a, as(codec.Gzip))
		zst := export(t, a, forced(codec.Zstd)).Descriptors[0]
		b := byBlobHere(t, env, zst, nil)
		require.NotEqual(t, a.ID(), b.ID())
		export(t, b, forced(codec.Uncompressed))
		export(t, b, forced(codec.EStargz))
		requireKinds := func(ref cache.ImmutableRef) {
			t.Helper()
			for _, kind := range allKinds {
				got := exportAll(t, ref, kind)
				require.Len(t, got, 2, kind)
				desc := got[1].Descriptors[0]
				require.Equal(t, kind.MediaType(), desc.MediaType)
				readBlob(t, got[1], desc)
			}
		}
		requireKinds(a)
		requireKinds(b)
		require.Len(t, blobNames(t, env), len(allKinds))
		release(t, a)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true, Filter: []string{"id==" + a.ID()}}), 1)
		require.NoError(t, env.GC(ctx))
		require.Len(t, blobNames(t, env), len(allKinds))
		requireKinds(b)
		release(t, b)
		require.Len(t, prune(t, env, pruneAll), 1)
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
		require.Empty(t, leaseIDs(t, env))
	})
}

// TestForce: what has the compression stays where it is, what has it elsewhere is found, and only the rest is converted, once.
func TestForce(t *testing.T) { // spec RMT-6, RMT-7, VAR-5, COMP-2, scenario S-20
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 3) // gzip, zstd, plain
		done := ingest(t, env, r, descs[2])
		top := refs[2]
		got := export(t, top, forced(codec.Zstd))
		require.Equal(t, [3]int{1, 0, 0}, [3]int{r.opened(descs[0].Digest), r.opened(descs[1].Digest), r.opened(descs[2].Digest)})
		require.Equal(t, descs[1].Digest, got.Descriptors[1].Digest)
		require.NotContains(t, blobNames(t, env), descs[1].Digest.String(), "it is lazy as before")
		for i, desc := range got.Descriptors {
			require.Equal(t, ocispecs.MediaTypeImageLayerZstd, desc.MediaType)
			require.Equal(t, diffIDOf(descs[i]), diffIDOf(desc))
			require.NotEmpty(t, desc.Annotations["containerd.io/uncompressed"])
			readBlob(t, got, desc)
		}
		done()
		env.Faults.Reset()
		require.Equal(t, digestsOf(got.Descriptors), digestsOf(export(t, top, forced(codec.Zstd)).Descriptors))
		require.Zero(t, env.Faults.Count(fault.OpContentWriter), "%s", env.Faults.Trace())

		export(t, top, forced(codec.Uncompressed))
		require.Equal(t, descs[2].Digest.String(), variantLabelsOf(t, env, descs[2].Digest)[labelRefBlob+descs[2].Digest.String()], "linked to itself")
		require.Equal(t, digestsOf(descs), digestsOf(export(t, top, as(codec.EStargz)).Descriptors), "without force they are as they are")
		remotes, err := top.GetRemotes(ctx, true, forced(codec.Zstd), true, nil)
		require.NoError(t, err)
		require.Len(t, remotes, 1)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
