package imagerefchecker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot/imagerefchecker"
)

const namespace = "images"

// stores are containerd's own: images and content, in a namespace.
type stores struct {
	images  images.Store
	content content.Store
	ctx     context.Context
}

func newStores(t testing.TB) *stores {
	t.Helper()
	dir := t.TempDir()
	blobs, err := contentlocal.NewStore(filepath.Join(dir, "content"))
	require.NoError(t, err)
	raw, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, raw.Close()) })
	db := metadata.NewDB(raw, blobs, nil)
	ctx := namespaces.WithNamespace(context.Background(), namespace)
	require.NoError(t, db.Init(ctx))
	return &stores{images: metadata.NewImageStore(db), content: db.ContentStore(), ctx: ctx}
}

func (s *stores) opt() imagerefchecker.Opt {
	return imagerefchecker.Opt{ImageStore: s.images, ContentStore: s.content, Namespace: namespace}
}

// add puts a document into the content store and describes it.
func (s *stores) add(t testing.TB, mediaType string, text []byte) ocispecs.Descriptor {
	t.Helper()
	desc := describe(mediaType, text)
	require.NoError(t, content.WriteBlob(s.ctx, s.content, desc.Digest.String(), bytes.NewReader(text), desc))
	return desc
}

func describe(mediaType string, text []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
}

func (s *stores) addJSON(t testing.TB, mediaType string, v any) ocispecs.Descriptor {
	t.Helper()
	return s.add(t, mediaType, encode(t, v))
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return text
}

// tag gives a target a name, as an image.
func (s *stores) tag(t testing.TB, name string, target ocispecs.Descriptor) {
	t.Helper()
	_, err := s.images.Create(s.ctx, images.Image{Name: name, Target: target})
	require.NoError(t, err)
}

// checker makes a checker of what there is now.
func (s *stores) checker(t testing.TB) cache.ExternalRefChecker {
	t.Helper()
	c, err := imagerefchecker.New(s.opt())()
	require.NoError(t, err)
	return c
}

// manifestOf is a manifest with layers. Neither they nor its config are needed to read it.
func manifestOf(layers ...digest.Digest) ocispecs.Manifest {
	m := ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: describe(ocispecs.MediaTypeImageConfig, []byte("{}")),
	}
	for _, d := range layers {
		m.Layers = append(m.Layers, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: d, Size: 1})
	}
	return m
}

func indexOf(manifests ...ocispecs.Descriptor) ocispecs.Index {
	return ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: manifests}
}

func forPlatform(desc ocispecs.Descriptor, platform string) ocispecs.Descriptor {
	p := platforms.MustParse(platform)
	desc.Platform = &p
	return desc
}

// blob is the digest of a layer of that name.
func blob(name string) digest.Digest { return digest.FromString(name) }

func blobs(names ...string) []digest.Digest {
	var list []digest.Digest
	for _, name := range names {
		list = append(list, blob(name))
	}
	return list
}
