package imagerefchecker_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/imagerefchecker"
)

// warnings returns what is logged from now on.
func warnings(t testing.TB) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	before := log.L.Logger.Out
	log.L.Logger.SetOutput(&buf)
	t.Cleanup(func() { log.L.Logger.SetOutput(before) })
	return &buf
}

// badImages make targets that are there and cannot be understood.
var badImages = map[string]func(t *testing.T, s *stores) ocispecs.Descriptor{
	"no JSON": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.add(t, ocispecs.MediaTypeImageManifest, []byte{0x1f, 0x8b, 8, 0})
	},
	"truncated": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		text := encode(t, manifestOf(blobs("bad")...))
		return s.add(t, ocispecs.MediaTypeImageManifest, text[:len(text)/2])
	},
	"other JSON": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.add(t, ocispecs.MediaTypeImageIndex, []byte(`["manifests"]`))
	},
	"layers are no list": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.add(t, ocispecs.MediaTypeImageManifest, []byte(`{"layers":{"digest":"x"}}`))
	},
	"manifest as index": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.addJSON(t, ocispecs.MediaTypeImageIndex, manifestOf(blobs("bad")...))
	},
	"index as manifest": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.addJSON(t, ocispecs.MediaTypeImageManifest, indexOf())
	},
	"schema 1": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.add(t, images.MediaTypeDockerSchema2Manifest, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:00"}]}`))
	},
	"far too large": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.add(t, ocispecs.MediaTypeImageManifest, bytes.Repeat([]byte(" "), 16<<20+1))
	},
	"in an index": func(t *testing.T, s *stores) ocispecs.Descriptor {
		t.Helper()
		return s.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(
			s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a")...)), s.add(t, ocispecs.MediaTypeImageManifest, []byte("{"))))
	},
}

// While an image cannot be understood, any record might be its: all of them count as referred to, with a warning that names
// the image, until it is gone. There is a checker, so that what does not depend on it goes on.
func TestDamagedImages(t *testing.T) { // spec IRC-2; quirk Q63
	for name, bad := range badImages {
		t.Run(name, func(t *testing.T) {
			s := newStores(t)
			s.tag(t, "good", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("g")...)))
			s.tag(t, "example.org/bad:v1", bad(t, s))
			logged := warnings(t)
			c := s.checker(t)
			require.Contains(t, logged.String(), "example.org/bad:v1")
			require.NotContains(t, logged.String(), "good")
			require.True(t, c.Exists("1", blobs("g")))
			require.True(t, c.Exists("2", blobs("anything")))
			require.True(t, c.Exists("3", nil))

			require.NoError(t, s.images.Delete(s.ctx, "example.org/bad:v1"))
			logged.Reset()
			c = s.checker(t)
			require.Empty(t, logged.String())
			require.True(t, c.Exists("1", blobs("g")))
			require.False(t, c.Exists("2", blobs("anything")))
		})
	}
}

// altering is a content store in which a bit flipped.
type altering struct {
	content.Provider
	d    digest.Digest
	data []byte
}

func (a altering) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if desc.Digest != a.d {
		return a.Provider.ReaderAt(ctx, desc)
	}
	return memory{bytes.NewReader(a.data)}, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// A layer's digest with another digit is still a digest, but not that of a layer that nobody refers to.
func TestFlippedBit(t *testing.T) { // spec IRC-2
	s := newStores(t)
	text := encode(t, manifestOf(blobs("a")...))
	s.tag(t, "app", s.add(t, ocispecs.MediaTypeImageManifest, text))
	opt := s.opt()
	other := strings.Replace(string(text), blob("a").Encoded(), blob("b").Encoded(), 1)
	opt.ContentStore = altering{s.content, digest.FromBytes(text), []byte(other)}
	warnings(t)
	c, err := imagerefchecker.New(opt)()
	require.NoError(t, err)
	require.True(t, c.Exists("1", blobs("a")))
}

// Whatever is stored under the media types of manifests, there is a checker, and it answers.
func FuzzDocuments(f *testing.F) { // spec IRC-2; fault 43
	f.Add(encode(f, manifestOf(blobs("a", "b")...)), true)
	f.Add(encode(f, indexOf(describe(ocispecs.MediaTypeImageManifest, []byte("x")))), false)
	f.Add([]byte(`{"manifests":[{"digest":"sha256:","mediaType":"application/vnd.oci.image.index.v1+json"},null]}`), false)
	f.Add([]byte(`{"layers":[null,{"digest":5}]}`), true)
	log.L.Logger.SetOutput(new(bytes.Buffer))
	f.Fuzz(func(t *testing.T, document []byte, isManifest bool) {
		mediaType := ocispecs.MediaTypeImageIndex
		if isManifest {
			mediaType = ocispecs.MediaTypeImageManifest
		}
		good := encode(t, manifestOf(blobs("g")...))
		descs := []ocispecs.Descriptor{describe(mediaType, document), describe(ocispecs.MediaTypeImageManifest, good)}
		stored := provider{descs[0].Digest: document, descs[1].Digest: good}
		opt := imagerefchecker.Opt{ImageStore: list{descs}, ContentStore: stored}
		c, err := imagerefchecker.New(opt)()
		require.NoError(t, err)
		require.True(t, c.Exists("1", blobs("g")))
	})
}

// list is a store of images without names.
type list struct{ descs []ocispecs.Descriptor }

func (l list) List(context.Context, ...string) ([]images.Image, error) {
	var all []images.Image
	for _, desc := range l.descs {
		all = append(all, images.Image{Target: desc})
	}
	return all, nil
}

func (list) Get(context.Context, string) (images.Image, error) {
	return images.Image{}, errdefs.ErrNotFound
}

func (list) Create(context.Context, images.Image) (images.Image, error) {
	return images.Image{}, errdefs.ErrNotImplemented
}

func (list) Update(context.Context, images.Image, ...string) (images.Image, error) {
	return images.Image{}, errdefs.ErrNotImplemented
}

func (list) Delete(context.Context, string, ...images.DeleteOpt) error {
	return errdefs.ErrNotImplemented
}

// provider is content in memory.
type provider map[digest.Digest][]byte

func (p provider) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, ok := p[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return memory{bytes.NewReader(data)}, nil
}
