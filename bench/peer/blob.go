package peer

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/util/compression"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/image"
)

// Blob makes the blob of a layer without parent, in the named compression, and returns it with its diff ID.
func (c *Cache) Blob(ctx context.Context, layer image.Ref, kind string) (desc ocispecs.Descriptor, diffID string, err error) {
	own, ok := layer.(ref)
	if !ok {
		return desc, "", errors.Errorf("a ref of another cache: %T", layer)
	}
	t, err := compression.Parse(kind)
	if err != nil {
		return desc, "", err
	}
	remotes, err := own.GetRemotes(ctx, true, config.RefConfig{Compression: compression.New(t)}, false, nil)
	if err != nil {
		return desc, "", err
	}
	if len(remotes) != 1 || len(remotes[0].Descriptors) != 1 {
		return desc, "", errors.Errorf("not one blob: %+v", remotes)
	}
	desc = remotes[0].Descriptors[0]
	return desc, desc.Annotations[labels.LabelUncompressed], nil
}
