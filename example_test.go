package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/tree"
)

// exampleOrigin stands for wherever an engine has its layers from.
type exampleOrigin map[digest.Digest][]byte

func (o exampleOrigin) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	fmt.Println("fetching", desc.Digest)
	return exampleBlob{bytes.NewReader(o[desc.Digest])}, nil
}

type exampleBlob struct{ *bytes.Reader }

func (exampleBlob) Close() error { return nil }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A layer of an image is put into the cache by its descriptor. Its data are fetched when somebody wants its tree.
func ExampleAccessor_GetByBlob() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	must(err)
	defer func() { must(os.RemoveAll(dir)) }()
	c, err := local.Open(ctx, filepath.Join(dir, "cache"), local.Options{Snapshotter: local.Native, SquashOwners: true})
	must(err)
	defer func() { must(c.Close()) }()

	// What a manifest and a config say of a layer: its blob, and the digest of that uncompressed.
	archive, err := tree.Tar(tree.File("hello.txt", "hello from a layer", tree.Owner(0, 0)))
	must(err)
	desc := ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(archive), Size: int64(len(archive)),
		Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(archive).String()},
	}
	origin := exampleOrigin{desc.Digest: archive}

	layer, err := c.GetByBlob(ctx, desc, nil, cache.DescHandlers{desc.Digest: {
		Provider: func(session.Group) content.Provider { return origin },
	}}, cache.WithImageRef("example.org/hello:latest"))
	must(err)
	defer func() { must(layer.Release(ctx)) }()
	fmt.Println("the layer is there, its data are not")

	must(layer.Extract(ctx, nil)) // Mount would do it, too
	mountable, err := layer.Mount(ctx, true, nil)
	must(err)
	mounter := snapshot.LocalMounter(mountable)
	root, err := mounter.Mount()
	must(err)
	defer func() { must(mounter.Unmount()) }()
	text, err := os.ReadFile(filepath.Join(root, "hello.txt"))
	must(err)
	fmt.Printf("%s\n", text)

	// Output:
	// the layer is there, its data are not
	// fetching sha256:2a41b0e7c07e03cc4f22166bcb39a8f8420223e39547b3f7d3dacd055fdf864a
	// hello from a layer
}
