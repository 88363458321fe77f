package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// fallbackStore is its embedded Store, but for reading what is not there.
type fallbackStore struct {
	*Store
	fallback *Store
}

var _ content.Store = (*fallbackStore)(nil)

func (s *fallbackStore) Info(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	info, err := s.Store.Info(ctx, dgst)
	if errdefs.IsNotFound(err) {
		return s.fallback.Info(ctx, dgst)
	}
	return info, err
}

func (s *fallbackStore) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := s.Store.ReaderAt(ctx, desc)
	if errdefs.IsNotFound(err) {
		return s.fallback.ReaderAt(ctx, desc)
	}
	return ra, err
}

func (s *fallbackStore) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	seen := make(map[digest.Digest]struct{})
	err := s.Store.Walk(ctx, func(info content.Info) error {
		seen[info.Digest] = struct{}{}
		return fn(info)
	}, filters...)
	if err != nil {
		return err
	}
	return s.fallback.Walk(ctx, func(info content.Info) error {
		if _, ok := seen[info.Digest]; ok {
			return nil
		}
		return fn(info)
	}, filters...)
}
