package imagerefchecker_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/imagerefchecker"
)

// An image refers to exactly the layers it consists of, in their order: not to those below, nor to those of other images.
func TestExactlyTheseLayers(t *testing.T) { // spec IRC-1
	s := newStores(t)
	s.tag(t, "oci", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a", "b", "c")...)))
	docker := manifestOf(blobs("d")...)
	docker.MediaType = images.MediaTypeDockerSchema2Manifest
	s.tag(t, "docker", s.addJSON(t, images.MediaTypeDockerSchema2Manifest, docker))
	s.tag(t, "repeated", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("e", "e")...)))
	c := s.checker(t)
	for list, want := range map[string]bool{
		"a b c": true, "d": true, "e e": true,
		"a": false, "a b": false, "c b a": false, "a b c d": false, "b c": false, "e": false, "e e e": false, "f": false,
	} {
		require.Equal(t, want, c.Exists(list, blobs(strings.Fields(list)...)), list)
	}
	joined := digest.Digest(fmt.Sprintf("%s,%s", blob("a"), blob("b")))
	require.False(t, c.Exists("joined", []digest.Digest{joined, blob("c")}))
}

// Every manifest of an index counts, also of an index in an index, for whatever platform it is.
func TestAllPlatforms(t *testing.T) { // spec IRC-1
	s := newStores(t)
	arm := forPlatform(s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("arm")...)), "linux/arm64")
	amd := forPlatform(s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("base", "amd")...)), "linux/amd64")
	silent := s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("silent")...))
	nested := s.addJSON(t, images.MediaTypeDockerSchema2ManifestList, map[string]any{
		"mediaType": images.MediaTypeDockerSchema2ManifestList, "manifests": []any{silent},
	})
	s.tag(t, "index", s.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(arm, amd, nested)))
	s.tag(t, "again", amd)
	c := s.checker(t)
	require.True(t, c.Exists("1", blobs("arm")))
	require.True(t, c.Exists("2", blobs("base", "amd")))
	require.True(t, c.Exists("3", blobs("silent")))
	require.False(t, c.Exists("4", blobs("base")))
}

// After a pull only the manifests of one platform are there. Those that are not refer to nothing, and do not keep
// everything for ever; nor does a manifest that is gone, or what an index lists that no store could have.
func TestMissingManifests(t *testing.T) { // spec IRC-1, IRC-2
	s := newStores(t)
	here := s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("here")...))
	absent := describe(ocispecs.MediaTypeImageManifest, encode(t, manifestOf(blobs("absent")...)))
	impossible := absent
	impossible.Digest = "sha256:../../../etc/passwd"
	s.tag(t, "pulled", s.addJSON(t, ocispecs.MediaTypeImageIndex,
		indexOf(forPlatform(absent, "linux/s390x"), impossible, forPlatform(here, "linux/amd64"))))
	s.tag(t, "gone", describe(ocispecs.MediaTypeImageIndex, []byte("gone")))
	c := s.checker(t)
	require.True(t, c.Exists("1", blobs("here")))
	require.False(t, c.Exists("2", blobs("absent")))
	require.False(t, c.Exists("3", blobs("other")))
}

// What is no image by its media type is none, and hides none.
func TestOtherThings(t *testing.T) { // spec IRC-1
	s := newStores(t)
	s.tag(t, "a signature", s.add(t, "application/vnd.dev.cosign.simplesigning.v1+json", []byte("not JSON")))
	s.tag(t, "index", s.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(
		s.add(t, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte{0x1f, 0x8b}),
		s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a")...)),
	)))
	s.tag(t, "without layers", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf()))
	s.tag(t, "strange layer", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf("b", "")))
	c := s.checker(t)
	require.True(t, c.Exists("1", blobs("a")))
	require.False(t, c.Exists("2", nil))
	require.False(t, c.Exists("3", []digest.Digest{}))
	require.False(t, c.Exists("4", []digest.Digest{"b", ""}))
	require.False(t, c.Exists("5", []digest.Digest{blob("a"), ""}))
	require.False(t, c.Exists("6", []digest.Digest{""}))
}

// One checker is one moment: its answers stay. Only a record without blobs has none that could stay.
func TestAnswersStay(t *testing.T) { // spec IRC-1; quirk Q45
	s := newStores(t)
	s.tag(t, "first", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a")...)))
	c := s.checker(t)
	require.True(t, c.Exists("a", blobs("a")))
	require.False(t, c.Exists("b", blobs("b")))
	require.False(t, c.Exists("late", []digest.Digest{""}))
	s.tag(t, "second", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("b")...)))
	require.NoError(t, s.images.Delete(s.ctx, "first"))
	require.True(t, c.Exists("a", blobs("other")))
	require.True(t, c.Exists("a", nil))
	require.False(t, c.Exists("b", blobs("b")))
	require.False(t, c.Exists("b", blobs("a")))
	require.True(t, c.Exists("late", blobs("a")))

	c = s.checker(t)
	require.False(t, c.Exists("a", blobs("a")))
	require.True(t, c.Exists("b", blobs("b")))
}

// Without an image store nothing is referred to. Options that make no sense are said to.
func TestOptions(t *testing.T) { // spec IRC-1
	c, err := imagerefchecker.New(imagerefchecker.Opt{})()
	require.NoError(t, err)
	require.False(t, c.Exists("a", blobs("a")))
	s := newStores(t)
	for name, opt := range map[string]imagerefchecker.Opt{
		"no content": {ImageStore: s.images, Namespace: namespace},
		"timeout":    {ImageStore: s.images, ContentStore: s.content, Namespace: namespace, Timeout: -1},
	} {
		c, err := imagerefchecker.New(opt)()
		require.True(t, errdefs.IsInvalidArgument(err), name)
		require.True(t, c == nil, name)
	}
	_, err = imagerefchecker.New(imagerefchecker.Opt{ImageStore: s.images, ContentStore: s.content})()
	require.ErrorContains(t, err, "namespace")
}

// Any number of goroutines may ask.
func TestParallel(t *testing.T) { // spec IRC-1
	s := newStores(t)
	s.tag(t, "image", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a", "b")...)))
	c := s.checker(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				id := fmt.Sprint(i % 20)
				want := i%20 < 10
				list := blobs("a")
				if want {
					list = blobs("a", "b")
				}
				if c.Exists(id, list) != want {
					t.Errorf("goroutine %d: record %s: not %t", g, id, want)
				}
			}
		})
	}
	wg.Wait()
}

// failing are stores that fail, or take long.
type failing struct {
	images.Store
	content.Provider
	list error
	open func(ctx context.Context, d digest.Digest) error
	read error
}

func (f *failing) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	if f.list != nil {
		return nil, f.list
	}
	return f.Store.List(ctx, filters...)
}

func (f *failing) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if f.open != nil {
		if err := f.open(ctx, desc.Digest); err != nil {
			return nil, err
		}
	}
	ra, err := f.Provider.ReaderAt(ctx, desc)
	if err != nil || f.read == nil {
		return ra, err
	}
	return brokenReader{ra, f.read}, nil
}

// brokenReader fails to read.
type brokenReader struct {
	content.ReaderAt
	err error
}

func (b brokenReader) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// A failure that passes makes no checker, whose answers would be guesses.
func TestFailuresThatPass(t *testing.T) { // spec IRC-2; quirk Q63
	s := newStores(t)
	lost := errors.New("lost")
	s.tag(t, "app", s.addJSON(t, ocispecs.MediaTypeImageIndex, indexOf(s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a")...)))))
	for name, f := range map[string]*failing{
		"list": {list: lost},
		"open": {open: func(context.Context, digest.Digest) error { return lost }},
		"read": {read: lost},
	} {
		t.Run(name, func(t *testing.T) {
			f.Store, f.Provider = s.images, s.content
			opt := s.opt()
			opt.ImageStore, opt.ContentStore = f, f
			c, err := imagerefchecker.New(opt)()
			require.ErrorIs(t, err, lost)
			require.True(t, c == nil)
			if name != "list" {
				require.ErrorContains(t, err, `"app"`)
			}
			f.list, f.open, f.read = nil, nil, nil
			c, err = imagerefchecker.New(opt)()
			require.NoError(t, err)
			require.True(t, c.Exists("1", blobs("a")))
		})
	}
}

// A store that hangs is an error after a while, so that neither DiskUsage nor Prune hangs with it.
func TestHangingStore(t *testing.T) { // spec IRC-2; fault 26
	s := newStores(t)
	s.tag(t, "app", s.addJSON(t, ocispecs.MediaTypeImageManifest, manifestOf(blobs("a")...)))
	opt := s.opt()
	opt.Timeout = 1
	opt.ContentStore = &failing{Provider: s.content, open: func(ctx context.Context, _ digest.Digest) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	opt.ImageStore = patient{s.images}
	_, err := imagerefchecker.New(opt)()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, `"app"`)
}

// patient is a store whose answer comes, however late.
type patient struct{ images.Store }

func (p patient) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return p.Store.List(context.WithoutCancel(ctx), filters...)
}
