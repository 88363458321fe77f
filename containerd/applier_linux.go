package containerd

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/overlaymounts"
	"github.com/layercache/cache/snapshot/apply"
)

// newApplier makes what unpacks layers into directories that this process can reach.
func newApplier(cs content.Store, remote diff.Applier, scratch string) diff.Applier {
	return &applier{remote: remote, own: apply.New(cs), scratch: scratch}
}

// applier has the daemon unpack layers, and does it itself where the daemon cannot: onto an overlay it unpacks into the upper directory
// alone, where a hard link to a file of a lower layer finds nothing to link to. It is for directories that this process can reach.
type applier struct {
	remote, own diff.Applier
	// scratch is the path of a directory for trees that are not kept, which is made when it is needed.
	scratch string
}

func (a *applier) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	target := emptyTarget(mounts)
	got, err := a.remote.Apply(ctx, desc, mounts, opts...)
	if err == nil || ctx.Err() != nil || indefinite(err) || errdefs.IsNotFound(err) {
		return got, err
	}
	if target == "" {
		return got, a.explained(ctx, desc, err)
	}
	log.G(ctx).WithError(err).WithField("digest", desc.Digest).Debug("layer cache: containerd could not unpack a layer, which is tried here")
	if cerr := empty(target); cerr != nil {
		return got, errors.Wrapf(err, "and what it left could not be removed (%v)", cerr)
	}
	return a.own.Apply(ctx, desc, mounts, opts...)
}

// explained finds out whether an error of the daemon's, which has no category, is the layer's fault: by unpacking it once more, where
// nobody looks. The tree that it was meant for is not touched any more, as others' files are in it.
func (a *applier) explained(ctx context.Context, desc ocispecs.Descriptor, err error) error {
	if terr := os.MkdirAll(a.scratch, dirMode); terr != nil {
		return err
	}
	dir, terr := os.MkdirTemp(a.scratch, "")
	if terr != nil {
		return err
	}
	defer os.RemoveAll(dir)
	_, own := a.own.Apply(ctx, desc, []mount.Mount{{Type: "bind", Source: dir, Options: []string{"bind", "rw"}}})
	if errdefs.IsInvalidArgument(own) || errdefs.IsPermissionDenied(own) {
		return errors.WithMessagef(own, "containerd says %q", err)
	}
	return err
}

// emptyTarget returns the directory that a layer is unpacked into, if there is nothing in it: what is in it after an attempt may then be
// removed. It is an overlay's upper directory, or that of a snapshot without a parent.
func emptyTarget(mounts []mount.Mount) string {
	if len(mounts) != 1 {
		return ""
	}
	var dir string
	switch m := mounts[0]; m.Type {
	case "overlay":
		layers, upper, known := overlaymounts.Layers(m)
		if !known || !upper || len(layers.Dirs) == 0 {
			return ""
		}
		dir = layers.Dirs[0]
	case "bind", "rbind":
		dir = m.Source
	default:
		return ""
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return ""
	}
	return dir
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
