package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// memory is a source of which the roots are given, and the blobs are those of an image.
type memory struct {
	img  *testImage
	tops []ocispecs.Descriptor
}

func (m memory) name() string                                         { return "memory" }
func (m memory) roots(context.Context) ([]ocispecs.Descriptor, error) { return m.tops, nil }
func (m memory) open(_ context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	data, ok := m.img.blobs[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(strings.NewReader(string(data))), nil
}

// otherPlatform adds an image without layers for another platform and returns its manifest.
func (img *testImage) otherPlatform(t testing.TB, platform string, inDescriptor bool) ocispecs.Descriptor {
	t.Helper()
	p := platforms.MustParse(platform)
	config := img.addJSON(t, ocispecs.MediaTypeImageConfig, ocispecs.Image{Platform: p, Author: platform})
	desc := img.addJSON(t, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{MediaType: ocispecs.MediaTypeImageManifest, Config: config})
	if inDescriptor {
		desc.Platform = &p
	}
	return desc
}

func indexOf(manifests ...ocispecs.Descriptor) ocispecs.Index {
	return ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: manifests}
}

// The layers come from the manifest, their diff IDs from the config.
func TestLayersOfImage(t *testing.T) { // spec MGR-16
	made := makeImage(t, standardLayers()...)
	img, err := findImage(t.Context(), memory{made, []ocispecs.Descriptor{made.manifest}}, testPlatform)
	require.NoError(t, err)
	require.Len(t, img.layers, len(made.layers))
	var config ocispecs.Image
	require.NoError(t, json.Unmarshal(made.blobs[made.config.Digest], &config))
	for i, desc := range img.layers {
		require.Equal(t, made.layers[i].Digest, desc.Digest)
		require.Equal(t, config.RootFS.DiffIDs[i].String(), desc.Annotations[labels.LabelUncompressed])
	}
	require.Equal(t, "linux/amd64", platforms.Format(img.platform))
}

// Of an index the best match is taken, wherever it stands; an image that does not say its platform is asked for it.
func TestPlatformOfIndex(t *testing.T) {
	made := makeImage(t)
	arm := made.otherPlatform(t, "linux/arm/v7", true)
	arm6 := made.otherPlatform(t, "linux/arm/v6", true)
	silent := made.otherPlatform(t, "linux/s390x", false)
	attestation := made.otherPlatform(t, "unknown/unknown", true)
	nested := made.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(silent))
	root := made.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(attestation, nested, arm6, arm))
	src := memory{made, []ocispecs.Descriptor{root}}
	for platform, want := range map[string]digest.Digest{
		"linux/arm/v7": arm.Digest, "linux/arm/v6": arm6.Digest, "linux/arm64": arm.Digest, "linux/s390x": silent.Digest,
	} {
		img, err := findImage(t.Context(), src, platforms.MustParse(platform))
		require.NoError(t, err, platform)
		require.Equal(t, want, img.manifest.Digest, platform)
	}
	_, err := findImage(t.Context(), src, platforms.MustParse("linux/riscv64"))
	require.True(t, errdefs.IsNotFound(err), err)
	require.ErrorContains(t, err, "platform linux/riscv64 (there are: linux/arm/v6, linux/arm/v7, linux/s390x, unknown/unknown)")
}

// anyDigest is that of nothing in particular.
var anyDigest = digest.FromString("x")

func manifestOf(t *testing.T, img *testImage, config any, layers ...ocispecs.Descriptor) ocispecs.Descriptor {
	t.Helper()
	return img.addJSON(t, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Config: img.addJSON(t, ocispecs.MediaTypeImageConfig, config), Layers: layers,
	})
}

func withDiffIDs(ids ...digest.Digest) ocispecs.Image {
	return ocispecs.Image{Platform: testPlatform, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: ids}}
}

// badDocuments make descriptors of documents that are not what they should be.
var badDocuments = map[string]struct {
	root func(t *testing.T, img *testImage) ocispecs.Descriptor
	want string
	is   func(error) bool
}{
	"missing": {func(*testing.T, *testImage) ocispecs.Descriptor {
		return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: anyDigest, Size: 1}
	}, anyDigest.String(), errdefs.IsNotFound},
	"no digest": {func(*testing.T, *testImage) ocispecs.Descriptor {
		return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: "sha256:../../etc/passwd", Size: 1}
	}, "digest", errdefs.IsInvalidArgument},
	"negative size": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		desc := img.manifest
		desc.Size = -1
		return desc
	}, "-1 bytes", errdefs.IsInvalidArgument},
	"huge": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		desc := img.manifest
		desc.Size = 1 << 60
		return desc
	}, "the limit is", errdefs.IsInvalidArgument},
	"other size": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		desc := img.manifest
		desc.Size--
		return desc
	}, "not what digest and size say", errdefs.IsInvalidArgument},
	"other content": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		img.blobs[img.manifest.Digest][0] ^= 1
		return img.manifest
	}, "not what digest and size say", errdefs.IsInvalidArgument},
	"truncated JSON": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		return img.add(ocispecs.MediaTypeImageIndex, []byte(`{"manifests":[{`))
	}, "no JSON", errdefs.IsInvalidArgument},
	"JSON of another kind": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		return img.add(ocispecs.MediaTypeImageManifest, []byte(`[1,2]`))
	}, "no JSON", errdefs.IsInvalidArgument},
	"media type": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		return img.add("text/plain", []byte("hello"))
	}, "text/plain", errdefs.IsNotImplemented},
	"index as manifest": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		desc := img.addJSON(t, ocispecs.MediaTypeImageManifest, map[string]any{"manifests": []any{}, "layers": []any{}})
		return desc
	}, "not what its descriptor says", errdefs.IsInvalidArgument},
	"manifest as index": {func(_ *testing.T, img *testImage) ocispecs.Descriptor {
		desc := img.manifest
		desc.MediaType = ocispecs.MediaTypeImageIndex
		return desc
	}, "not what its descriptor says", errdefs.IsInvalidArgument},
	"artifact": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		return img.addJSON(t, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
			Config: img.add("application/vnd.cncf.helm.config.v1+json", []byte("{}")),
		})
	}, "helm", errdefs.IsNotImplemented},
	"nested too deep": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		desc := img.manifest
		for range maxDepth + 1 {
			desc = img.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(desc))
		}
		return desc
	}, "deep", errdefs.IsInvalidArgument},
	"too many": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		var others []ocispecs.Descriptor
		for range maxDocuments {
			others = append(others, img.otherPlatform(t, "linux/s390x", false))
		}
		return img.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(others...))
	}, "documents", errdefs.IsInvalidArgument},
	"no diff ID": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		return manifestOf(t, img, withDiffIDs(), ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: anyDigest, Size: 1})
	}, "1 layers and 0 diff IDs", errdefs.IsInvalidArgument},
	"bad diff ID": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		return manifestOf(t, img, withDiffIDs("sha256:xyz"), ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: anyDigest, Size: 1})
	}, "sha256:xyz", errdefs.IsInvalidArgument},
	"bad layer digest": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		return manifestOf(t, img, withDiffIDs(anyDigest), ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: "nonsense"})
	}, "nonsense", errdefs.IsInvalidArgument},
	"negative layer": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		return manifestOf(t, img, withDiffIDs(anyDigest), ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: anyDigest, Size: -5})
	}, "-5", errdefs.IsInvalidArgument},
	"no layer": {func(t *testing.T, img *testImage) ocispecs.Descriptor {
		t.Helper()
		return manifestOf(t, img, withDiffIDs(anyDigest), ocispecs.Descriptor{MediaType: "text/html", Digest: anyDigest, Size: 1})
	}, "text/html", errdefs.IsNotImplemented},
}

// Documents that are not what they should be are typed errors that name them.
func TestBadDocuments(t *testing.T) {
	for name, tc := range badDocuments {
		t.Run(name, func(t *testing.T) {
			made := makeImage(t)
			_, err := findImage(t.Context(), memory{made, []ocispecs.Descriptor{tc.root(t, made)}}, testPlatform)
			require.ErrorContains(t, err, tc.want)
			require.True(t, tc.is(err), "%+v", err)
		})
	}
}

// A layout is found by its path, with a tag or without, and what is not one is told in words.
func TestSources(t *testing.T) {
	made := makeImage(t)
	dir := made.writeLayout(t)
	for _, text := range []string{dir, dir + ":v1", dir + "/"} {
		src, err := newSource(text, false)
		require.NoError(t, err)
		img, err := findImage(t.Context(), src, testPlatform)
		require.NoError(t, err)
		require.Equal(t, made.manifest.Digest, img.manifest.Digest)
	}
	src, err := newSource("debian", false)
	require.NoError(t, err)
	require.Equal(t, "docker.io/library/debian:latest", src.name())

	for text, want := range map[string]string{
		dir + "/no/such/dir": "there is no image layout directory", "./nowhere": "there is no image layout directory",
		t.TempDir(): "is no image layout", "UPPER case": "no directory either", "": "is not the name of an image",
	} {
		_, err := newSource(text, false)
		require.ErrorContains(t, err, want, text)
	}
	src, err = newSource(dir+":v2", false)
	require.NoError(t, err)
	_, err = findImage(t.Context(), src, testPlatform)
	require.True(t, errdefs.IsNotFound(err))
	require.ErrorContains(t, err, `no tag "v2" (it has: v1)`)

	second := made.otherPlatform(t, "linux/amd64", true)
	second.Annotations = map[string]string{ocispecs.AnnotationRefName: "v2"}
	made.index.Manifests = append(made.index.Manifests, second)
	dir = made.writeLayout(t)
	src, err = newSource(dir, false)
	require.NoError(t, err)
	_, err = findImage(t.Context(), src, testPlatform)
	require.ErrorContains(t, err, "add one of the tags: v1, v2")
	src, err = newSource(dir+":v2", false)
	require.NoError(t, err)
	img, err := findImage(t.Context(), src, testPlatform)
	require.NoError(t, err)
	require.Equal(t, second.Digest, img.manifest.Digest)
}

// Files of a layout that are damaged, or no files, are errors: nothing hangs, and nothing outside of the layout is read.
func TestBadLayouts(t *testing.T) { // fault 42
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600))
	replace := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
	}
	instead := func(name string, mk func(path string) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.Remove(filepath.Join(dir, name)))
			require.NoError(t, mk(filepath.Join(dir, name)))
		}
	}
	for name, tc := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"version":             {replace("oci-layout", `{"imageLayoutVersion":"2.0.0"}`), `version "2.0.0"`},
		"header":              {replace("oci-layout", `{`), "is no image layout"},
		"header elsewhere":    {instead("oci-layout", func(path string) error { return os.Symlink(secret, path) }), "is no image layout"},
		"header is directory": {instead("oci-layout", func(path string) error { return os.Mkdir(path, 0o700) }), "not a regular file"},
		"no index":            {instead("index.json", func(string) error { return nil }), "index.json is missing"},
		"truncated index":     {replace("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha2`), "index.json"},
		"empty index":         {replace("index.json", `{}`), "holds no image"},
		"huge index":          {replace("index.json", strings.Repeat(" ", maxDocument+1)), "has more than"},
		"index of nonsense":   {replace("index.json", `{"manifests":[{"digest":"../../secret","mediaType":"`+ocispecs.MediaTypeImageManifest+`"}]}`), "../../secret"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeImage(t).writeLayout(t)
			tc.damage(t, dir)
			src, err := newSource(dir, false)
			if err == nil {
				_, err = findImage(t.Context(), src, testPlatform)
			}
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// Whatever the documents hold, there is an image of valid layers or an error, never a panic.
func FuzzDocuments(f *testing.F) { // fault 43
	made := makeImage(f, standardLayers()...)
	f.Add(made.blobs[made.manifest.Digest], made.blobs[made.config.Digest], true)
	f.Add([]byte(`{"manifests":[{"platform":{"os":"\u0000","architecture":"../"}}]}`), []byte(`{"rootfs":{"diff_ids":[null,"",5]}}`), false)
	f.Add([]byte(`{"manifests":null,"config":{"size":-1}}`), []byte(`null`), true)
	f.Fuzz(func(t *testing.T, document, config []byte, isManifest bool) {
		img := &testImage{blobs: map[digest.Digest][]byte{}}
		mediaType := ocispecs.MediaTypeImageIndex
		if isManifest {
			mediaType = ocispecs.MediaTypeImageManifest
		}
		img.add(ocispecs.MediaTypeImageConfig, config)
		root := img.add(mediaType, document)
		got, err := findImage(t.Context(), memory{img, []ocispecs.Descriptor{root}}, testPlatform)
		if err != nil {
			return
		}
		for _, desc := range got.layers {
			require.NoError(t, desc.Digest.Validate())
			require.NoError(t, digest.Digest(desc.Annotations[labels.LabelUncompressed]).Validate())
			require.GreaterOrEqual(t, desc.Size, int64(0))
		}
	})
}
