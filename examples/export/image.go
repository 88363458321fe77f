package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// Annotations that the cache puts on its descriptors, besides containerd's.
const (
	annotationCreatedAt = "buildkit/createdat"
	// annotationTOC is of use to those who mount the layer from afar, so it stays.
	annotationTOC = "containerd.io/snapshot/stargz/toc.digest"
)

// image is the documents of an image.
type image struct {
	platform                 ocispecs.Platform
	config, manifest         ocispecs.Descriptor
	configText, manifestText []byte
}

// newImage makes config and manifest of layers and the times when these were made, bottom first. The same layers make the
// same documents.
func newImage(layers []ocispecs.Descriptor, created []time.Time, platform ocispecs.Platform) (*image, error) {
	img := &image{platform: platform}
	config := ocispecs.Image{Platform: platform, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	manifest := ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Layers: []ocispecs.Descriptor{},
	}
	if len(created) != len(layers) {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "there are %d blobs of %d layers", len(layers), len(created))
	}
	for i, desc := range layers {
		diffID := digest.Digest(desc.Annotations[labels.LabelUncompressed])
		if err := diffID.Validate(); err != nil {
			return nil, errors.Wrapf(errdefs.ErrFailedPrecondition, "layer %d, %s: its diff ID is not known: %v", i+1, desc.Digest, err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		config.History = append(config.History, ocispecs.History{Created: &created[i], CreatedBy: "layercache export"})
		if config.Created == nil || created[i].After(*config.Created) {
			config.Created = &created[i]
		}
		manifest.Layers = append(manifest.Layers, published(desc))
	}
	var err error
	if img.config, img.configText, err = document(ocispecs.MediaTypeImageConfig, config); err != nil {
		return nil, err
	}
	manifest.Config = img.config
	img.manifest, img.manifestText, err = document(ocispecs.MediaTypeImageManifest, manifest)
	return img, err
}

// published is a layer's descriptor without what is between the cache and this program only: the diff ID and the
// time are in the config, and where a blob came from is nobody else's business.
func published(desc ocispecs.Descriptor) ocispecs.Descriptor {
	kept := map[string]string{}
	for name, value := range desc.Annotations {
		if name != labels.LabelUncompressed && name != annotationCreatedAt && !strings.HasPrefix(name, labels.LabelDistributionSource+".") {
			kept[name] = value
		}
	}
	if desc.Annotations = kept; len(kept) == 0 {
		desc.Annotations = nil
	}
	return desc
}

func document(mediaType string, v any) (ocispecs.Descriptor, []byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, nil, errors.WithStack(err)
	}
	return ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}, text, nil
}

// memory is a document as a provider of itself.
type memory []byte

// ReaderAt implements content.Provider.
func (m memory) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	return memoryReader{bytes.NewReader(m)}, nil
}

type memoryReader struct{ *bytes.Reader }

// Close implements io.Closer.
func (memoryReader) Close() error { return nil }
