package differ

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/treediff"
)

// Compare packs what upper has beside lower, writes the blob into the content store and returns its descriptor: media type, digest
// and size. No mounts at all are an empty tree. The blob has the label "containerd.io/uncompressed", which is the diff ID.
//
// The options are containerd's. WithMediaType is the type of the blob, the OCI layer with gzip if there is none; one that is no layer's is an
// invalid argument. WithCompressor makes the blob of the archive, and needs a media type to go with it. WithReference names the
// upload: a call waits for others of the same reference, and for as long as its context lasts; what an earlier one left is discarded. Without a
// reference, calls have nothing in common. WithLabels are labels for the blob. WithSourceDateEpoch is the latest time a file may have
// in the archive; the context may have one, too (containerd's package epoch).
//
// The call ends soon after its context, but not before the content store's writer and the compressor return.
func (d *Differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	s, err := newSettings(ctx, opts)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	var desc ocispecs.Descriptor
	err = withTrees(ctx, lower, upper, func(l, u treediff.Layers) error {
		desc, err = d.pack(ctx, s, l, u)
		return err
	})
	if err != nil {
		return ocispecs.Descriptor{}, errors.WithMessage(err, "packing a layer")
	}
	return desc, nil
}

// CompareUpper is Compare for a layer that can be told from the mounts, by one walk of its own directory: the upper mount is an
// overlay of the lower mount's layers and one more; or there is no lower mount, and upper is a bind mount (spec OVL-1). In the latter, devices
// with the number 0/0 are deletions of nothing. Other mounts are ErrNotOverlay, before anything is written.
func (d *Differ) CompareUpper(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	s, err := newSettings(ctx, opts)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	l, u, err := upperLayers(lower, upper)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	desc, err := d.pack(ctx, s, l, u)
	return desc, errors.WithMessage(err, "packing a layer")
}
