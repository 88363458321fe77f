// Package registries is how the examples talk to registries: without credentials, and without TLS to those on this machine.
package registries

import (
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/pkg/errors"
)

// Resolve completes a short name the usual way, "debian" is "docker.io/library/debian:latest", and returns what talks to its
// registry. plainHTTP does without TLS for any registry.
func Resolve(text string, plainHTTP bool) (name string, resolver remotes.Resolver, err error) {
	named, err := reference.ParseDockerRef(text)
	if err != nil {
		return "", nil, errors.Wrapf(errdefs.ErrInvalidArgument, "%q is not the name of an image: %v", text, err)
	}
	match := docker.MatchLocalhost
	if plainHTTP {
		match = docker.MatchAllHosts
	}
	client := &http.Client{Transport: docker.DefaultHTTPTransport(nil)}
	return named.String(), docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithClient(client),
			docker.WithPlainHTTP(match),
			// It asks for the tokens that public registries give to anybody.
			docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(client))),
		),
	}), nil
}
