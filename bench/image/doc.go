// Package image makes up images to pull, and serves their blobs on the loopback interface.
package image

import (
	"context"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Origin is where the images come from: the caches' key for bounding transfers.
const Origin = "registry.test/bench:latest"

// CopyingSnapshotter is the name under which the native snapshotter is opened where it must not be known. Caches know by the name what
// they may do, and this one stands for nothing, so that merges do not link files between snapshots.
const CopyingSnapshotter = "copying"

// annotationDiffID is how a layer's descriptor tells the digest of its uncompressed archive.
const annotationDiffID = "containerd.io/uncompressed"

// Ref is a ref to a record of either cache.
type Ref interface {
	ID() string
	// Extract pulls and unpacks the layer and all below it.
	Extract(ctx context.Context) error
	// Mounted calls fn with the path of a directory that shows the tree.
	Mounted(ctx context.Context, fn func(dir string) error) error
	Release(ctx context.Context) error
}

// Unseen returns the descriptors of layers whose blobs nobody has. The same name gives the same ones, bottom first.
func Unseen(name string, layers int) []ocispecs.Descriptor {
	out := make([]ocispecs.Descriptor, layers)
	for i := range out {
		layer := name + "/" + strconv.Itoa(i)
		out[i] = describe(digest.FromString(layer), digest.FromString(layer+" uncompressed"), 1<<20)
	}
	return out
}

func describe(blob, diffID digest.Digest, size int64) ocispecs.Descriptor {
	return ocispecs.Descriptor{
		MediaType:   ocispecs.MediaTypeImageLayerGzip,
		Digest:      blob,
		Size:        size,
		Annotations: map[string]string{annotationDiffID: diffID.String()},
	}
}
