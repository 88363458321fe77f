package main

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// registry is an image in a registry, which is asked without any credentials.
type registry struct {
	ref      string
	resolver remotes.Resolver

	once    sync.Once
	fetcher remotes.Fetcher
	err     error
}

// newRegistry completes a short name the usual way: "debian" is "docker.io/library/debian:latest".
func newRegistry(text string, plainHTTP bool) (*registry, error) {
	named, err := reference.ParseDockerRef(text)
	if err != nil {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "%q is neither a directory nor the name of an image: %v", text, err)
	}
	match := docker.MatchLocalhost
	if plainHTTP {
		match = docker.MatchAllHosts
	}
	client := &http.Client{Transport: docker.DefaultHTTPTransport(nil)}
	return &registry{ref: named.String(), resolver: docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithClient(client),
			docker.WithPlainHTTP(match),
			// It asks for the tokens that public registries give to anybody.
			docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(client))),
		),
	})}, nil
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
