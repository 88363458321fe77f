package main

import (
	"context"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/examples/internal/registries"
)

// registry is an image in a registry, which is asked without any credentials.
type registry struct {
	ref      string
	resolver remotes.Resolver

	once    sync.Once
	fetcher remotes.Fetcher
	err     error
}

// newRegistry takes text for the name of an image.
func newRegistry(text string, plainHTTP bool) (*registry, error) {
	ref, resolver, err := registries.Resolve(text, plainHTTP)
	if err != nil {
		return nil, errors.WithMessage(err, "no directory either")
	}
	return &registry{ref: ref, resolver: resolver}, nil
}

func (r *registry) name() string { return r.ref }

func (r *registry) roots(ctx context.Context) ([]ocispecs.Descriptor, error) {
	_, desc, err := r.resolver.Resolve(ctx, r.ref)
	if err != nil {
		return nil, errors.Wrapf(err, "resolve %s", r.ref)
	}
	return []ocispecs.Descriptor{desc}, nil
}

func (r *registry) open(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	r.once.Do(func() { r.fetcher, r.err = r.resolver.Fetcher(ctx, r.ref) })
	if r.err != nil {
		return nil, errors.Wrapf(r.err, "fetch from %s", r.ref)
	}
	rc, err := r.fetcher.Fetch(ctx, desc)
	return rc, errors.Wrapf(err, "fetch %s from %s", desc.Digest, r.ref)
}
