// Package compression holds the types by which callers choose how layer blobs are packed.
// The kinds of compression themselves are in package codec.
package compression

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compressor wraps dest so that what is written arrives there in the form that mediaType names.
// The caller closes the returned writer, which flushes it but leaves dest open.
type Compressor func(dest io.Writer, mediaType string) (io.WriteCloser, error)

// Finalizer is called once the blob is complete; it returns annotations to add to the descriptor.
type Finalizer func(context.Context, content.Store) (map[string]string, error)

// Type is one kind of compression. Implementations must be comparable and safe for concurrent use.
type Type interface {
	// Compress returns a compressor for one blob and the finalizer that belongs to it, which may be nil.
	Compress(context.Context, Config) (Compressor, Finalizer)
	// Decompress returns the uncompressed stream of a blob; the caller closes it.
	Decompress(context.Context, content.Store, ocispecs.Descriptor) (io.ReadCloser, error)
	// NeedsConversion tells whether the blob is of another kind.
	NeedsConversion(context.Context, content.Store, ocispecs.Descriptor) (bool, error)
	// NeedsComputeDiffBySelf tells whether a generic differ cannot write this kind (spec COMP-1).
	NeedsComputeDiffBySelf(Config) bool
	// OnlySupportOCITypes tells whether Docker media types cannot express the kind.
	OnlySupportOCITypes() bool
	// MediaType is the OCI media type of a layer of this kind.
	MediaType() string
	// String is the name users write, "gzip" for instance.
	String() string
}

// Config is a wish for the form of a blob.
type Config struct {
	// Type is the kind wanted; nil means gzip where a blob has to be made (spec RMT-1).
	Type Type
	// Force converts existing blobs of another kind.
	Force bool
	// Level is the effort in the units of the kind; nil means its default.
	Level *int
}

// SetForce returns a copy of c with Force set to v.
func (c Config) SetForce(v bool) Config {
	c.Force = v
	return c
}

// SetLevel returns a copy of c with Level set to v.
func (c Config) SetLevel(v int) Config {
	c.Level = &v
	return c
}
