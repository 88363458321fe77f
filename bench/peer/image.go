package peer

import (
	"context"
	stderrors "errors"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache/bench/image"
)

// GetChain gets refs to the layers from the bottom to the top, and returns the last one. provider is who has the blobs.
func (c *Cache) GetChain(ctx context.Context, layers []ocispecs.Descriptor, provider content.Provider) (image.Ref, error) {
	handlers := cache.DescHandlers{}
	for _, desc := range layers {
		handlers[desc.Digest] = &cache.DescHandler{
			Provider: func(session.Group) content.Provider { return provider },
			Ref:      image.Origin,
		}
	}
	var top cache.ImmutableRef
	for _, desc := range layers {
		next, err := c.GetByBlob(ctx, desc, top, handlers)
		if top != nil {
			err = stderrors.Join(err, top.Release(ctx))
		}
		if err != nil {
			return nil, err
		}
		top = next
	}
	return ref{top}, nil
}

type ref struct{ cache.ImmutableRef }

func (r ref) Extract(ctx context.Context) error { return r.ImmutableRef.Extract(ctx, nil) }

func (r ref) Mounted(ctx context.Context, fn func(string) error) (err error) {
	mountable, err := r.Mount(ctx, true, nil)
	if err != nil {
		return err
	}
	mounts, release, err := mountable.Mount()
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, release()) }()
	return mount.WithTempMount(ctx, mounts, fn)
}
