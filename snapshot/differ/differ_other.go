//go:build !linux

package differ

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// Compare is not implemented on this system: the error is errdefs' "not implemented".
func (d *Differ) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispecs.Descriptor, error) {
	return ocispecs.Descriptor{}, notHere()
}

// CompareUpper is not implemented on this system: the error is errdefs' "not implemented".
func (d *Differ) CompareUpper(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispecs.Descriptor, error) {
	return ocispecs.Descriptor{}, notHere()
}

func notHere() error {
	return errors.Wrap(errdefs.ErrNotImplemented, "layers are packed on Linux only")
}
