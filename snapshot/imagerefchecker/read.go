package imagerefchecker

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// maxDocument is how large an index or a manifest may be, in bytes. Registries take manifests of 4 MiB, containerd fetches
// some more; whatever is called a manifest and is larger is a layer that somebody wants to have read into memory.
const maxDocument = 16 << 20

// errNotUnderstood reports a document that is there, and is not what it should be. Reading it again changes nothing.
var errNotUnderstood = errors.New("not understood")

// reader collects the layer lists of images.
type reader struct {
	opt   Opt
	seen  map[digest.Digest]bool // read already, for this image or another one
	lists map[string]bool
}

// image reads what an image consists of. If one of its documents is not understood, the others are read all the same.
func (r *reader) image(ctx context.Context, img images.Image) error {
	var unclear []error
	for todo := []ocispecs.Descriptor{img.Target}; len(todo) > 0; {
		desc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		more, err := r.document(ctx, desc)
		switch {
		case errdefs.IsNotFound(err): // of another platform, or gone
		case errors.Is(err, errNotUnderstood):
			unclear = append(unclear, errors.WithMessagef(err, "%s", desc.Digest))
		case err != nil:
			return errors.Wrapf(err, "%s", desc.Digest)
		}
		todo = append(todo, more...)
	}
	return stderrors.Join(unclear...)
}

// parts are those of indexes and manifests that matter here. Which of them there are tells one from the other.
type parts struct {
	MediaType string                `json:"mediaType"`
	Manifests []ocispecs.Descriptor `json:"manifests"`
	Layers    []ocispecs.Descriptor `json:"layers"`
	Config    *ocispecs.Descriptor  `json:"config"`
	FSLayers  []json.RawMessage     `json:"fsLayers"` // of the Docker format before manifests had digests of configs
}

// document reads an index, and returns what it lists, or a manifest, whose layers it takes down.
func (r *reader) document(ctx context.Context, desc ocispecs.Descriptor) ([]ocispecs.Descriptor, error) {
	isIndex := images.IsIndexType(desc.MediaType)
	if !isIndex && !images.IsManifestType(desc.MediaType) {
		return nil, nil
	}
	if r.seen[desc.Digest] {
		return nil, nil
	}
	// No store has anything under what is no digest. An index may list such a thing for a platform that nobody pulled.
	if err := desc.Digest.Validate(); err != nil {
		return nil, errors.Wrap(errdefs.ErrNotFound, err.Error())
	}
	text, err := r.read(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	doc, err := parse(text, isIndex)
	if err != nil {
		return nil, err
	}
	r.seen[desc.Digest] = true
	if isIndex {
		return doc.Manifests, nil
	}
	blobs := make([]digest.Digest, len(doc.Layers))
	for i, l := range doc.Layers {
		blobs[i] = l.Digest
	}
	if len(blobs) > 0 && !slices.ContainsFunc(blobs, func(d digest.Digest) bool { return d.Validate() != nil }) {
		r.lists[listKey(blobs)] = true // what has a layer that is no digest, no record can consist of
	}
	return nil, nil
}

// parse tells what a document says, unless that is something else than its descriptor says of it.
func parse(text []byte, isIndex bool) (doc parts, err error) {
	if err := json.Unmarshal(text, &doc); err != nil {
		return doc, errors.WithMessagef(errNotUnderstood, "no JSON of an index or a manifest: %v", err)
	}
	looksIndex := doc.Manifests != nil || images.IsIndexType(doc.MediaType)
	looksManifest := doc.Layers != nil || doc.Config != nil || doc.FSLayers != nil || images.IsManifestType(doc.MediaType)
	switch {
	case isIndex && looksManifest, !isIndex && looksIndex:
		return doc, errors.WithMessage(errNotUnderstood, "an index that is called a manifest, or the other way round")
	case doc.FSLayers != nil:
		return doc, errors.WithMessage(errNotUnderstood, "a manifest of schema 1")
	}
	return doc, nil
}

// read returns a document. It is verified: a layer's digest with a flipped bit would be a layer that nobody refers to.
func (r *reader) read(ctx context.Context, d digest.Digest) (text []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.opt.Timeout)
	defer cancel()
	// The store knows the size, and what the descriptor says of it does not matter.
	ra, err := r.opt.ContentStore.ReaderAt(ctx, ocispecs.Descriptor{Digest: d})
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, ra.Close()) }()
	if ra.Size() > maxDocument {
		return nil, errors.WithMessagef(errNotUnderstood, "%d bytes, no document is that large", ra.Size())
	}
	text, err = io.ReadAll(content.NewReader(ra))
	if err != nil {
		return nil, errors.WithStack(err)
	}
	if d.Algorithm().FromBytes(text) != d {
		return nil, errors.WithMessage(errNotUnderstood, "damaged, it has another digest")
	}
	return text, nil
}
