package winlayers

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot/differ"
)

// NewComparer returns a comparer that asks wrapped, but for layers of Windows, which it packs itself into cs, as package differ does
// with all its options, and where that works.
func NewComparer(cs content.Store, wrapped diff.Comparer) diff.Comparer {
	return &comparer{Comparer: wrapped, windows: differ.New(cs, differ.WithLayout(layout()))}
}

type comparer struct {
	diff.Comparer
	windows *differ.Differ
}

// Compare implements diff.Comparer.
func (c *comparer) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	if layerMode(ctx) {
		return c.windows.Compare(ctx, lower, upper, append(opts[:len(opts):len(opts)], presentedOption)...)
	}
	var config diff.Config
	for _, opt := range opts {
		if err := opt(&config); err != nil {
			return ocispecs.Descriptor{}, errors.Wrap(err, "option for packing a layer")
		}
	}
	if presented(config.MediaType) != config.MediaType {
		opts = append(opts[:len(opts):len(opts)], presentedOption)
	}
	return c.Comparer.Compare(ctx, lower, upper, opts...)
}

// presentedOption changes the media type that options before it chose.
func presentedOption(c *diff.Config) error {
	c.MediaType = presented(c.MediaType)
	return nil
}
