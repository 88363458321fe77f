package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// diffService has the daemon pack and unpack layers, of blobs in one namespace.
type diffService struct {
	service interface {
		diff.Applier
		diff.Comparer
	}
	ns string
}

func (d *diffService) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, d.ns)
}

func (d *diffService) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	return d.service.Apply(d.in(ctx), desc, mounts, opts...)
}

func (d *diffService) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	return d.service.Compare(d.in(ctx), lower, upper, opts...)
}
