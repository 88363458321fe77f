package containerd

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/overlaymounts"
)

// applier has the daemon unpack layers, and does it itself where the daemon cannot: onto an overlay it unpacks into the upper directory
// alone, where a hard link to a file of a lower layer finds nothing to link to. It is for directories that this process can reach.
type applier struct{ remote, own diff.Applier }

func (a *applier) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	upper := emptyUpper(mounts)
	got, err := a.remote.Apply(ctx, desc, mounts, opts...)
	if err == nil || upper == "" || ctx.Err() != nil || indefinite(err) || errdefs.IsNotFound(err) {
		return got, err
	}
	log.G(ctx).WithError(err).WithField("digest", desc.Digest).Debug("layer cache: containerd could not unpack a layer, which is tried here")
	if cerr := empty(upper); cerr != nil {
		return got, errors.Wrapf(err, "and what it left could not be removed (%v)", cerr)
	}
	return a.own.Apply(ctx, desc, mounts, opts...)
}

// emptyUpper returns the upper directory of an overlay if there is nothing in it: what is in it after an attempt may then be removed.
func emptyUpper(mounts []mount.Mount) string {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return ""
	}
	layers, upper, known := overlaymounts.Layers(mounts[0])
	if !known || !upper || len(layers.Dirs) == 0 {
		return ""
	}
	entries, err := os.ReadDir(layers.Dirs[0])
	if err != nil || len(entries) > 0 {
		return ""
	}
	return layers.Dirs[0]
}

// empty removes everything from a directory.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errors.WithStack(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return errors.WithStack(err)
		}
	}
	return nil
}
