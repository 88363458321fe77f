package winlayers

import (
	"archive/tar"
	"context"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
)

// NewApplier returns an applier that asks wrapped, but for layers of Windows, which it reads from provider and unpacks itself, as package
// apply does with those options: what lies below "Files/", without that prefix, which names of links lose as well. Everything else of
// such a layer is ignored, yet part of the digest that Apply returns.
//
// The result is a snapshot.DetachedApplier if wrapped is one.
func NewApplier(provider content.Provider, wrapped diff.Applier, opts ...apply.Option) diff.Applier {
	a := &applier{Applier: wrapped, windows: apply.New(provider, append(opts[:len(opts):len(opts)], apply.Entries(keep))...)}
	if d, ok := wrapped.(snapshot.DetachedApplier); ok {
		return &detachedApplier{applier: a, detached: d}
	}
	return a
}

type applier struct {
	diff.Applier
	windows *apply.Applier
}

// Apply implements diff.Applier.
func (a *applier) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	desc.MediaType = presented(desc.MediaType)
	if layerMode(ctx) {
		return a.windows.Apply(ctx, desc, mounts, opts...)
	}
	return a.Applier.Apply(ctx, desc, mounts, opts...)
}

type detachedApplier struct {
	*applier
	detached snapshot.DetachedApplier
}

// ApplyDetached implements snapshot.DetachedApplier.
func (a *detachedApplier) ApplyDetached(ctx context.Context, desc ocispecs.Descriptor, dir string, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	desc.MediaType = presented(desc.MediaType)
	if layerMode(ctx) {
		return a.windows.ApplyDetached(ctx, desc, dir, opts...)
	}
	return a.detached.ApplyDetached(ctx, desc, dir, opts...)
}

// keep chooses the entries below Files/, as a name reads once it is cleaned: "Files/../x" is not below.
func keep(hdr *tar.Header) bool {
	name, ok := strings.CutPrefix(strings.TrimPrefix(path.Clean(filepath.ToSlash(hdr.Name)), "/"), filesPrefix)
	if !ok {
		return false
	}
	hdr.Name = name
	hdr.Linkname = strings.TrimPrefix(hdr.Linkname, filesPrefix)
	return true
}
