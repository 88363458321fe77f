package cache_test

import (
	"maps"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// Layer media types that the image specification has no constants for, or deprecated ones.
const (
	ociRestricted     = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	ociRestrictedGzip = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	ociRestrictedZstd = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
	dockerPlain       = "application/vnd.docker.image.rootfs.diff.tar"
	dockerGzip        = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerForeignGzip = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

const sourceAnnotation = "containerd.io/distribution.source."

// TestNonDistributable: layers with URLs come back with them, and with the media type that says so, to those who prefer that; others get
// the plain type and no URLs. What has no URLs is plain either way.
func TestNonDistributable(t *testing.T) { // spec RMT-1, DESC-1, DESC-2, scenario S-21
	urls := []string{"https://b.test/2", "https://a.test/1"}
	type form struct{ packed, stored, plain, restricted string }
	forms := []form{
		{"", ociRestricted, ocispecs.MediaTypeImageLayer, ociRestricted},
		{"", ocispecs.MediaTypeImageLayer, ocispecs.MediaTypeImageLayer, ociRestricted},
		{"gzip", ociRestrictedGzip, ocispecs.MediaTypeImageLayerGzip, ociRestrictedGzip},
		{"zstd", ociRestrictedZstd, ocispecs.MediaTypeImageLayerZstd, ociRestrictedZstd},
		{"zstd", ocispecs.MediaTypeImageLayerZstd, ocispecs.MediaTypeImageLayerZstd, ociRestrictedZstd},
		{"", dockerForeign, dockerPlain, dockerForeign},
		{"gzip", dockerForeignGzip, dockerGzip, dockerForeignGzip},
		{"gzip", dockerGzip, dockerGzip, dockerForeignGzip},
		{"gzip", "application/x-of-somebody", "application/x-of-somebody", "application/x-of-somebody"},
	}
	prefer := as(codec.Gzip)
	prefer.PreferNonDistributable = true
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		for i, f := range forms {
			desc := r.layer(t, f.packed, tree.File("f", string(rune('a'+i))))
			desc.MediaType, desc.URLs = f.stored, urls
			ref := byBlob(t, env, r, desc, nil)
			got := export(t, ref, prefer).Descriptors[0]
			require.Equal(t, f.restricted, got.MediaType, "%+v", f)
			require.Equal(t, urls, got.URLs, "in their order")
			require.Equal(t, [2]any{desc.Digest, desc.Size}, [2]any{got.Digest, got.Size})
			got.URLs[0] = "changed by the caller"
			require.Equal(t, urls, export(t, ref, prefer).Descriptors[0].URLs)
			got = export(t, ref, as(codec.Gzip)).Descriptors[0]
			require.Equal(t, f.plain, got.MediaType, "%+v", f)
			require.Empty(t, got.URLs)
			release(t, ref)

			desc = r.layer(t, f.packed, tree.File("without URLs", string(rune('a'+i))))
			desc.MediaType = f.stored
			ref = byBlob(t, env, r, desc, nil)
			got = export(t, ref, prefer).Descriptors[0]
			require.Equal(t, f.plain, got.MediaType, "%+v", f)
			require.Empty(t, got.URLs)
			release(t, ref)
		}
		require.Empty(t, blobNames(t, env), "none of it takes the blobs")
	})
}

// TestURLsDoNotCarryOver: another compression of a layer is not where its URLs lead.
func TestURLsDoNotCarryOver(t *testing.T) { // spec RMT-6, COMP-4, scenario S-21, quirk Q50
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		desc.MediaType, desc.URLs = dockerForeignGzip, []string{"https://a.test/1"}
		ref := byBlob(t, env, r, desc, nil)
		cfg := forced(codec.Zstd)
		cfg.PreferNonDistributable = true
		got := export(t, ref, cfg)
		require.Equal(t, ocispecs.MediaTypeImageLayerZstd, got.Descriptors[0].MediaType)
		require.Empty(t, got.Descriptors[0].URLs)
		require.Equal(t, diffIDOf(desc), diffIDOf(got.Descriptors[0]))
		readBlob(t, got, got.Descriptors[0])
		same := forced(codec.Gzip) // needs no conversion
		same.PreferNonDistributable = true
		got = export(t, ref, same)
		require.Equal(t, [2]any{dockerForeignGzip, desc.URLs}, [2]any{got.Descriptors[0].MediaType, got.Descriptors[0].URLs})
		release(t, ref)
	})
}

// TestMissingMediaType: what old databases do not say of a blob is found out from it, also after they were opened.
func TestMissingMediaType(t *testing.T) { // spec RMT-4
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		for packed, want := range map[string]string{"": dockerPlain, "gzip": dockerGzip, "zstd": dockerPlain + ".zstd"} {
			desc := r.layer(t, packed, tree.File("f", "packed "+packed))
			ref := byBlob(t, env, r, desc, nil)
			release(t, ref)
			editRow(t, env, ref.ID(), map[string]any{"cache.mediatype": nil})
			env.Reopen()
			again := get(t, env, ref.ID(), r.allHandlers())
			for range 2 {
				got := export(t, again, remote.RefConfig{})
				require.Equal(t, want, got.Descriptors[0].MediaType)
				require.Equal(t, desc.Digest, got.Descriptors[0].Digest)
			}
			require.Equal(t, 1, r.opened(desc.Digest))
			target := codec.Zstd
			if packed == "zstd" {
				target = codec.Uncompressed
			}
			converted := export(t, again, forced(target))
			require.Equal(t, target.MediaType(), converted.Descriptors[0].MediaType)
			readBlob(t, converted, converted.Descriptors[0])
			require.Equal(t, diffIDOf(desc), diffIDOf(converted.Descriptors[0]))
			release(t, again)
		}
	})
}

// TestDistributionSources: a lazy layer says of which repositories it is, by host, without ports or repetition; names that are none do no harm.
// A layer that is here needs none of that.
func TestDistributionSources(t *testing.T) { // spec RMT-5, RMT-6, quirk Q40
	refs := []string{
		"registry.test:5000/team/app:1", "BAD ref::", "registry.test:5000/team/app@" + digest.FromString("x").String(), "",
		"registry.test/other:2", "busybox", "docker.io/library/busybox:3", "team/app", "127.0.0.1:5000/local", "https://registry.test/url",
	}
	want := map[string]string{
		sourceAnnotation + "registry.test": "team/app,other",
		sourceAnnotation + "docker.io":     "library/busybox,team/app",
		sourceAnnotation + "127.0.0.1":     "local",
	}
	sources := func(desc ocispecs.Descriptor) map[string]string {
		out := map[string]string{}
		for k, v := range desc.Annotations {
			if len(k) > len(sourceAnnotation) && k[:len(sourceAnnotation)] == sourceAnnotation {
				out[k] = v
			}
		}
		return out
	}
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base, top := r.layer(t, "gzip", tree.File("base", "x")), r.layer(t, "gzip", tree.File("top", "x"))
		var opts []cache.RefOption
		for _, name := range refs {
			opts = append(opts, cache.WithImageRef(name))
		}
		below := byBlob(t, env, r, base, nil, opts...)
		above := byBlob(t, env, r, top, below, cache.WithImageRef("registry.test/only-top"))
		for _, cfg := range []remote.RefConfig{as(codec.Zstd), forced(codec.Gzip)} {
			got := export(t, above, cfg)
			require.Equal(t, want, sources(got.Descriptors[0]))
			require.Equal(t, map[string]string{sourceAnnotation + "registry.test": "only-top"}, sources(got.Descriptors[1]))
		}
		require.Empty(t, blobNames(t, env))
		got := export(t, above, as(codec.Gzip))
		readBlob(t, got, got.Descriptors[0])
		got = export(t, above, as(codec.Gzip))
		require.Empty(t, sources(got.Descriptors[0]), "it is local by now")
		require.NotEmpty(t, sources(got.Descriptors[1]))
		release(t, below, above)
	})
}

// TestAnnotations: of what a handler says of a blob the annotations that a blob keeps come back; once the blob is here, it is those that it was
// labelled with, whatever other handlers say.
func TestAnnotations(t *testing.T) { // spec DESC-3, DESC-4, DESC-5, DESC-6, VAR-2
	kept := map[string]string{
		"containerd.io/snapshot/stargz/toc.digest":         digest.FromString("toc").String(),
		"io.containers.estargz.uncompressed-size":          "123",
		"containerd.io/snapshot/overlaybd.localcommitpath": "/dev/x",
		"containerd.io/snapshot/overlaybd/blob-digest":     digest.FromString("device").String(),
		"containerd.io/snapshot/overlaybd/blob-size":       "45",
		"containerd.io/snapshot/overlaybd/blob-fs-type":    "ext4",
	}
	created := time.Unix(1_500_000_000, 123_000_000)
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		own := maps.Clone(kept)
		own["containerd.io/uncompressed"], own["buildkit/createdat"] = diffIDOf(desc).String(), created.UTC().Format(time.RFC3339Nano)
		handled := func(more map[string]string) cache.DescHandlers {
			dhs := r.handlers(desc)
			dhs[desc.Digest].Annotations = map[string]string{
				"org.opencontainers.image.title": "not kept", sourceAnnotation + "registry.test": "not kept",
				"containerd.io/uncompressed": digest.FromString("a lie").String(), "buildkit/createdat": "not kept",
			}
			maps.Copy(dhs[desc.Digest].Annotations, more)
			return dhs
		}
		ref, err := env.Manager.GetByBlob(ctx, desc, nil, handled(kept), cache.WithCreationTime(created))
		require.NoError(t, err)
		r1 := export(t, ref, remote.RefConfig{})
		require.Equal(t, own, r1.Descriptors[0].Annotations)
		require.Empty(t, blobNames(t, env))
		readBlob(t, r1, desc)
		require.Equal(t, own, export(t, ref, remote.RefConfig{}).Descriptors[0].Annotations)

		other := get(t, env, ref.ID(), handled(map[string]string{"io.containers.estargz.uncompressed-size": "6"}))
		got := export(t, other, remote.RefConfig{})
		require.Equal(t, own, got.Descriptors[0].Annotations, "the blob knows better")
		got.Descriptors[0].Annotations["changed"] = "by the caller"
		require.Equal(t, own, export(t, other, remote.RefConfig{}).Descriptors[0].Annotations)
		parsed, err := time.Parse(time.RFC3339, own["buildkit/createdat"])
		require.NoError(t, err)
		require.True(t, parsed.Equal(ref.GetCreatedAt()), "an embedder brings it back by the option for it")
		release(t, ref, other)
	})
}

// TestAnnotationsOfAnUnlabelledBlob: a blob that somebody else put there says nothing of itself, so the handler does.
func TestAnnotationsOfAnUnlabelledBlob(t *testing.T) { // spec DESC-3
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		done := ingest(t, env, r, desc)
		dhs := r.handlers(desc)
		dhs[desc.Digest].Annotations = map[string]string{"io.containers.estargz.uncompressed-size": "1", "other": "2"}
		ref, err := env.Manager.GetByBlob(ctx, desc, nil, dhs)
		require.NoError(t, err)
		done()
		got := export(t, ref, remote.RefConfig{}).Descriptors[0].Annotations
		require.Equal(t, "1", got["io.containers.estargz.uncompressed-size"])
		require.NotContains(t, got, "other")
		require.Zero(t, r.opened(desc.Digest))
		release(t, ref)
	})
}
