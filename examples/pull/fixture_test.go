package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// testLayer is a layer of an image that a test makes.
type testLayer struct {
	entries   []tree.Entry
	mediaType string
}

// testImage is an image in the form of blobs.
type testImage struct {
	blobs    map[digest.Digest][]byte
	index    ocispecs.Index
	manifest ocispecs.Descriptor
	config   ocispecs.Descriptor
	layers   []ocispecs.Descriptor
}

var testPlatform = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// standardLayers are layers of each compression in which files are added, replaced, linked and deleted; the
// same blob comes twice.
func standardLayers() []testLayer {
	stamp := tree.File("etc/stamp", "the same layer twice\n")
	toolAlias := tree.Hardlink("bin/alias", "bin/tool") // of the layer below
	toolAlias.Mode = 0o755
	return []testLayer{
		{mediaType: ocispecs.MediaTypeImageLayerGzip, entries: []tree.Entry{
			tree.Dir("bin"), tree.File("bin/tool", "#!/bin/sh\n", tree.Mode(0o755)),
			tree.Dir("etc"), tree.File("etc/passwd", "root\n"), tree.File("etc/shadow", "secret\n", tree.Mode(0o600)),
			tree.Dir("old"), tree.File("old/a", "a"), tree.File("old/b", "b"),
			tree.Dir("opaque"), tree.File("opaque/below", "not seen in the end"),
		}},
		{mediaType: ocispecs.MediaTypeImageLayerZstd, entries: []tree.Entry{
			tree.Dir("etc"), tree.File("etc/hosts", "localhost\n"), tree.Hardlink("etc/names", "etc/hosts"),
			tree.Dir("bin"), toolAlias, tree.Symlink("bin/sh", "tool"),
		}},
		{mediaType: ocispecs.MediaTypeImageLayerGzip, entries: []tree.Entry{tree.Dir("etc"), stamp}},
		{mediaType: ocispecs.MediaTypeImageLayer, entries: []tree.Entry{
			tree.Whiteout("old/a"), tree.Whiteout("etc/shadow"),
			tree.Dir("opaque"), tree.Opaque("opaque"), tree.File("opaque/above", "seen"),
		}},
		{mediaType: ocispecs.MediaTypeImageLayerGzip, entries: []tree.Entry{tree.Dir("etc"), stamp}},
	}
}

// standardTree is what the standard layers amount to.
func standardTree() []tree.Entry {
	return []tree.Entry{
		tree.File("bin/tool", "#!/bin/sh\n", tree.Mode(0o755)), tree.Hardlink("bin/alias", "bin/tool"), tree.Symlink("bin/sh", "tool"),
		tree.File("etc/passwd", "root\n"), tree.File("etc/hosts", "localhost\n"), tree.Hardlink("etc/names", "etc/hosts"),
		tree.File("etc/stamp", "the same layer twice\n"),
		tree.File("old/b", "b"), tree.File("opaque/above", "seen"),
	}
}

// makeImage packs layers into an image for the test platform, with an index that has it under the tag "v1".
func makeImage(t testing.TB, layers ...testLayer) *testImage {
	t.Helper()
	img := &testImage{blobs: map[digest.Digest][]byte{}}
	config := ocispecs.Image{Platform: testPlatform, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	manifest := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Layers: []ocispecs.Descriptor{}}
	for _, l := range layers {
		archive, err := tree.Tar(l.entries...)
		require.NoError(t, err)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(archive))
		manifest.Layers = append(manifest.Layers, img.add(l.mediaType, compress(t, l.mediaType, archive)))
	}
	img.layers = manifest.Layers
	manifest.Config = img.addJSON(t, ocispecs.MediaTypeImageConfig, config)
	img.config = manifest.Config
	img.manifest = img.addJSON(t, ocispecs.MediaTypeImageManifest, manifest)
	tagged := img.manifest
	tagged.Annotations = map[string]string{ocispecs.AnnotationRefName: "v1"}
	img.index = ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{tagged}}
	return img
}

func (img *testImage) add(mediaType string, data []byte) ocispecs.Descriptor {
	d := digest.FromBytes(data)
	img.blobs[d] = data
	return ocispecs.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (img *testImage) addJSON(t testing.TB, mediaType string, v any) ocispecs.Descriptor {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return img.add(mediaType, text)
}

// distinct are the layers' blobs, each once.
func (img *testImage) distinct() (all []ocispecs.Descriptor) {
	seen := map[digest.Digest]bool{}
	for _, desc := range img.layers {
		if !seen[desc.Digest] {
			all = append(all, desc)
		}
		seen[desc.Digest] = true
	}
	return all
}

// writeLayout writes the image as a layout into a new directory.
func (img *testImage) writeLayout(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
	index, err := json.Marshal(img.index)
	require.NoError(t, err)
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write("index.json", index)
	for d, data := range img.blobs {
		write(filepath.Join("blobs", d.Algorithm().String(), d.Encoded()), data)
	}
	return dir
}

// blobPath is where a layout has a blob.
func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}

func compress(t testing.TB, mediaType string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	switch mediaType {
	case ocispecs.MediaTypeImageLayerGzip:
		w := gzip.NewWriter(&buf)
		_, err := w.Write(data)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	case ocispecs.MediaTypeImageLayerZstd:
		w, err := zstd.NewWriter(&buf)
		require.NoError(t, err)
		_, err = w.Write(data)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	default:
		return data
	}
	return buf.Bytes()
}
