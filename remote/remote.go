// Package remote describes layers as blobs that can be read from somewhere.
package remote

import (
	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache/compression"
)

// Remote is a chain of layer blobs and where to read them.
type Remote struct {
	// Descriptors lists the layers, bottom first.
	Descriptors []ocispecs.Descriptor
	// Provider can deliver every descriptor of the list.
	Provider content.InfoReaderProvider
}

// RefConfig says in which form the blobs of a ref are wanted.
type RefConfig struct {
	// Compression is the wanted kind.
	Compression compression.Config
	// PreferNonDistributable keeps the non-distributable media types and URLs where a layer has them.
	PreferNonDistributable bool
}
