package main

import (
	"context"
	stderrors "errors"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/examples/internal/registries"
)

// registry is a name in a registry.
type registry struct {
	ref    string
	pusher remotes.Pusher
}

func newRegistry(ctx context.Context, text string, plainHTTP bool) (*registry, error) {
	ref, resolver, err := registries.Resolve(text, plainHTTP)
	if err != nil {
		return nil, err
	}
	pusher, err := resolver.Pusher(ctx, ref)
	return &registry{ref, pusher}, errors.Wrapf(err, "push to %s", ref)
}

func (r *registry) name() string { return r.ref }

// blob uploads a blob, unless the registry has it, or finds it where the descriptor says that it came from.
func (r *registry) blob(ctx context.Context, desc ocispecs.Descriptor, from content.Provider) (err error) {
	w, err := r.pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, w.Close()) }()
	ra, err := from.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, ra.Close()) }()
	// The registry verifies what it gets.
	err = content.Copy(ctx, w, content.NewReader(ra), desc.Size, desc.Digest)
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return errors.WithStack(err)
}

// publish uploads the manifest, under the name.
func (r *registry) publish(ctx context.Context, manifest ocispecs.Descriptor, text []byte) error {
	return r.blob(ctx, manifest, memory(text))
}

// close has nothing to remove: what was uploaded and not published is the registry's to collect.
func (r *registry) close() error { return nil }
