package main

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

const (
	// maxDocument is how large an index, a manifest or a config may be, in bytes. Registries take manifests of 4 MiB.
	maxDocument = 4 << 20
	// maxDocuments is how many of them are read of one image, and maxDepth how deep indexes may be nested.
	maxDocuments = 64
	maxDepth     = 4
)

// errNoMatch reports that an image is there, but not for the platform.
var errNoMatch = errors.WithMessage(errdefs.ErrNotFound, "no image for the platform")

// image is one image for one platform.
type image struct {
	name     string
	manifest ocispecs.Descriptor
	platform ocispecs.Platform
	// layers are the layers' blobs, bottom first. Each has its diff ID as an annotation.
	layers []ocispecs.Descriptor
}

// size is the number of bytes in the layers' blobs.
func (img *image) size() (n int64) {
	for _, desc := range img.layers {
		n += desc.Size
	}
	return n
}

// finder reads the documents of a source on the way from its roots to an image.
type finder struct {
	src   source
	match platforms.MatchComparer
	read  int
	// seen are the platforms that are not the wanted one.
	seen []string
}

// findImage reads the documents of a source up to the layers of the image for a platform. No layer is touched.
func findImage(ctx context.Context, src source, platform ocispecs.Platform) (*image, error) {
	roots, err := src.roots(ctx)
	if err != nil {
		return nil, err
	}
	f := &finder{src: src, match: platforms.Only(platform)}
	img, err := f.find(ctx, roots, 0)
	if errors.Is(err, errNoMatch) {
		slices.Sort(f.seen)
		return nil, errors.Wrapf(errNoMatch, "%s, platform %s (there are: %s)",
			src.name(), platforms.Format(platform), strings.Join(slices.Compact(f.seen), ", "))
	}
	return img, errors.Wrap(err, src.name())
}

// find returns the best image among descs. Those that do not say what platform they are for come last.
func (f *finder) find(ctx context.Context, descs []ocispecs.Descriptor, depth int) (*image, error) {
	if depth > maxDepth {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "indexes are nested more than %d deep", maxDepth)
	}
	descs = slices.DeleteFunc(slices.Clone(descs), func(desc ocispecs.Descriptor) bool {
		if desc.Platform == nil || f.match.Match(*desc.Platform) {
			return false
		}
		f.seen = append(f.seen, platforms.Format(*desc.Platform))
		return true
	})
	slices.SortStableFunc(descs, func(a, b ocispecs.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			return boolOrder(a.Platform == nil, b.Platform == nil)
		case f.match.Less(*a.Platform, *b.Platform):
			return -1
		}
		return boolOrder(f.match.Less(*b.Platform, *a.Platform), false)
	})
	for _, desc := range descs {
		var img *image
		var err error
		switch {
		case images.IsIndexType(desc.MediaType):
			img, err = f.index(ctx, desc, depth)
		case images.IsManifestType(desc.MediaType):
			img, err = f.manifest(ctx, desc)
		case len(descs) == 1:
			return nil, errors.Wrapf(errdefs.ErrNotImplemented, "%s is no image but %q", desc.Digest, desc.MediaType)
		default:
			continue
		}
		if !errors.Is(err, errNoMatch) {
			return img, err
		}
	}
	return nil, errNoMatch
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (f *finder) index(ctx context.Context, desc ocispecs.Descriptor, depth int) (*image, error) {
	var index struct {
		ocispecs.Index
		Layers json.RawMessage `json:"layers"`
	}
	if err := f.document(ctx, desc, &index); err != nil {
		return nil, errors.Wrapf(err, "index %s", desc.Digest)
	}
	if index.Layers != nil || index.MediaType != "" && index.MediaType != desc.MediaType {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "index %s is not what its descriptor says", desc.Digest)
	}
	return f.find(ctx, index.Manifests, depth+1)
}

func (f *finder) manifest(ctx context.Context, desc ocispecs.Descriptor) (*image, error) {
	var manifest struct {
		ocispecs.Manifest
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := f.document(ctx, desc, &manifest); err != nil {
		return nil, errors.Wrapf(err, "manifest %s", desc.Digest)
	}
	if manifest.Manifests != nil || manifest.MediaType != "" && manifest.MediaType != desc.MediaType {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "manifest %s is not what its descriptor says", desc.Digest)
	}
	if !images.IsConfigType(manifest.Config.MediaType) {
		return nil, errors.Wrapf(errdefs.ErrNotImplemented, "manifest %s is not of an image: its config is %q", desc.Digest, manifest.Config.MediaType)
	}
	var config ocispecs.Image
	if err := f.document(ctx, manifest.Config, &config); err != nil {
		return nil, errors.Wrapf(err, "config %s", manifest.Config.Digest)
	}
	img := &image{name: f.src.name(), manifest: desc, platform: config.Platform}
	if desc.Platform != nil {
		img.platform = *desc.Platform
	} else if !f.match.Match(config.Platform) {
		f.seen = append(f.seen, platforms.Format(config.Platform))
		return nil, errNoMatch
	}
	var err error
	img.layers, err = layersOf(manifest.Manifest, config)
	return img, errors.Wrapf(err, "manifest %s", desc.Digest)
}

// layersOf puts together what the manifest and the config say of the layers.
func layersOf(manifest ocispecs.Manifest, config ocispecs.Image) ([]ocispecs.Descriptor, error) {
	diffIDs := config.RootFS.DiffIDs
	if len(diffIDs) != len(manifest.Layers) {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "there are %d layers and %d diff IDs", len(manifest.Layers), len(diffIDs))
	}
	layers := slices.Clone(manifest.Layers)
	for i := range layers {
		l := &layers[i]
		if err := stderrors.Join(l.Digest.Validate(), diffIDs[i].Validate()); err != nil {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "layer %d, digest %q, diff ID %q: %v", i+1, l.Digest, diffIDs[i], err)
		}
		if l.Size < 0 {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "layer %d has %d bytes", i+1, l.Size)
		}
		if !images.IsLayerType(l.MediaType) {
			return nil, errors.Wrapf(errdefs.ErrNotImplemented, "layer %d is %q", i+1, l.MediaType)
		}
		l.Annotations = maps.Clone(l.Annotations)
		if l.Annotations == nil {
			l.Annotations = map[string]string{}
		}
		l.Annotations[labels.LabelUncompressed] = diffIDs[i].String()
	}
	return layers, nil
}

// document reads and verifies a JSON blob.
func (f *finder) document(ctx context.Context, desc ocispecs.Descriptor, v any) (err error) {
	if f.read++; f.read > maxDocuments {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "more than %d documents had to be read", maxDocuments)
	}
	if err := desc.Digest.Validate(); err != nil {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "digest %q: %v", desc.Digest, err)
	}
	if desc.Size < 0 || desc.Size > maxDocument {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "its size is %d bytes, the limit is %d", desc.Size, maxDocument)
	}
	rc, err := f.src.open(ctx, desc)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err = stderrors.Join(err, rc.Close()); err != nil {
		return errors.WithStack(err)
	}
	if int64(len(text)) != desc.Size || desc.Digest.Algorithm().FromBytes(text) != desc.Digest {
		return errors.Wrap(errdefs.ErrInvalidArgument, "its content is not what digest and size say")
	}
	if err := json.Unmarshal(text, v); err != nil {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "its content is no JSON of this kind: %v", err)
	}
	return nil
}

// defaultPlatform is this machine's, but Linux where images of the system's own kind are not made.
func defaultPlatform() ocispecs.Platform {
	p := platforms.DefaultSpec()
	if runtime.GOOS != "windows" {
		p.OS, p.OSVersion = "linux", ""
	}
	return p
}
