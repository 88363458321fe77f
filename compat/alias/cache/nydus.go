//go:build nydus

package cache

import (
	"compress/gzip"
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/nydus-snapshotter/pkg/converter"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	lib "github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/session"
)

// MergeNydus returns the layer that an image of nydus has over all others: what a snapshotter needs to mount the image before it has
// its files. It is made out of what each layer's blob says of that layer, and put into the content store, where the lease of the context
// keeps it. It runs the program nydus-image.
func MergeNydus(ctx context.Context, ref ImmutableRef, comp compression.Config, s session.Group) (*ocispecs.Descriptor, error) {
	blobs, cs, err := lib.LayerBlobs(ctx, ref, comp, s)
	if err != nil {
		return nil, errors.WithMessage(err, "layers for nydus")
	}
	if len(blobs) == 0 {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "record %q has no layers for nydus", ref.ID())
	}
	layers := make([]converter.Layer, len(blobs))
	for i, desc := range blobs {
		ra, err := cs.ReaderAt(ctx, desc)
		if err != nil {
			return nil, errors.Wrapf(err, "opening blob %s", desc.Digest)
		}
		defer ra.Close()
		layers[i] = converter.Layer{Digest: desc.Digest, ReaderAt: ra}
	}
	bootstrap, diffID, err := writeBootstrap(ctx, cs, ref.ID(), layers)
	if err != nil {
		return nil, err
	}
	bootstrap.Annotations = map[string]string{
		labels.LabelUncompressed:                diffID.String(),
		converter.LayerAnnotationNydusBootstrap: "true",
	}
	return &bootstrap, nil
}

// writeBootstrap merges what the layers say, and stores that as a compressed archive.
func writeBootstrap(ctx context.Context, cs content.Store, id string, layers []converter.Layer) (_ ocispecs.Descriptor, diffID digest.Digest, err error) {
	w, err := content.OpenWriter(ctx, cs, content.WithRef("nydus-merge-"+id))
	if err != nil {
		return ocispecs.Descriptor{}, "", errors.Wrap(err, "storing the bootstrap of nydus")
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = errors.Wrap(cerr, "storing the bootstrap of nydus")
		}
	}()
	if err := w.Truncate(0); err != nil { // somebody may have died over it
		return ocispecs.Descriptor{}, "", errors.Wrap(err, "storing the bootstrap of nydus")
	}
	archive := digest.Canonical.Digester()
	size := &counter{w: w}
	compressed := gzip.NewWriter(size)
	if _, err := converter.Merge(ctx, layers, io.MultiWriter(compressed, archive.Hash()), converter.MergeOption{WithTar: true}); err != nil {
		return ocispecs.Descriptor{}, "", errors.Wrap(err, "merging the layers' bootstraps of nydus")
	}
	if err := compressed.Close(); err != nil {
		return ocispecs.Descriptor{}, "", errors.Wrap(err, "storing the bootstrap of nydus")
	}
	diffID = archive.Digest()
	label := content.WithLabels(map[string]string{labels.LabelUncompressed: diffID.String()})
	if err := w.Commit(ctx, size.n, w.Digest(), label); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispecs.Descriptor{}, "", errors.Wrap(err, "storing the bootstrap of nydus")
	}
	return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: size.n}, diffID, nil
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
