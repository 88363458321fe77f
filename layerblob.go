package cache

import (
	"maps"
	"slices"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/layertype"
	"github.com/layercache/cache/snapshot"
)

// Annotations of layer descriptors that the cache understands.
const (
	// annotationUncompressed holds the digest of the uncompressed layer, its diff ID.
	annotationUncompressed = "containerd.io/uncompressed"
	// annotationTOC holds the digest of an estargz layer's table of contents.
	annotationTOC = "containerd.io/snapshot/stargz/toc.digest"
)

// layerBlob is a layer descriptor that was checked, and what it makes of a parent's address.
type layerBlob struct {
	desc ocispecs.Descriptor // a copy
	// id is what the layer is compared by.
	id graph.LayerID
	// address is that of the layer with all below it (spec MGR-19). Whoever knows what is below sets it.
	address
	// newCause is the Cause of the event that tells of a new record for the layer.
	newCause string
}

// checkLayer makes a layerBlob of a descriptor that came from outside. Without a digest it is a layer without content
// (spec MGR-16).
func checkLayer(desc ocispecs.Descriptor, caps snapshot.Capabilities) (*layerBlob, error) {
	if desc.Digest != "" {
		if err := desc.Digest.Validate(); err != nil {
			return nil, errors.Wrapf(errInvalid, "layer descriptor: digest %q: %v", desc.Digest, err)
		}
	}
	if desc.Size < 0 {
		return nil, errors.Wrapf(errInvalid, "layer descriptor %s: size %d", desc.Digest, desc.Size)
	}
	diffID, err := annotatedDigest(desc, annotationUncompressed)
	if err != nil {
		return nil, err
	}
	if diffID == "" {
		return nil, errors.Wrapf(errInvalid, "layer descriptor %s: annotation %s is missing", desc.Digest, annotationUncompressed)
	}
	layer := diffID
	if caps.TOCIdentity {
		toc, err := annotatedDigest(desc, annotationTOC)
		if err != nil {
			return nil, err
		}
		if toc != "" {
			layer = chainID(diffID, toc)
		}
	}
	desc.MediaType = storable(desc.MediaType)
	desc.Annotations = maps.Clone(desc.Annotations)
	desc.URLs = slices.Clone(desc.URLs)
	for i, u := range desc.URLs {
		desc.URLs[i] = storable(u)
	}
	return &layerBlob{desc: desc, id: graph.LayerID{
		Digest: desc.Digest.String(), DiffID: diffID.String(), Identity: layer.String(),
		MediaType: desc.MediaType, Size: desc.Size, Common: layertype.Common(desc.MediaType),
	}}, nil
}

func annotatedDigest(desc ocispecs.Descriptor, key string) (digest.Digest, error) {
	text, ok := desc.Annotations[key]
	if !ok {
		return "", nil
	}
	d, err := digest.Parse(text)
	if err != nil {
		return "", errors.Wrapf(errInvalid, "layer descriptor %s: annotation %s is %q: %v", desc.Digest, key, text, err)
	}
	return d, nil
}

// chainID joins two digests (spec MGR-20).
func chainID(below, top digest.Digest) digest.Digest {
	return identity.ChainID([]digest.Digest{below, top})
}

// addressOf returns what layers on top of a record are addressed by; ok is false if it has no address. Chain IDs that are stored
// are compared with what the record's layers make, once: in a database of BuildKit's they may have been made of the
// upper layers only (quirk Q22), and then different trees would get one address, and one snapshot.
func (m *manager) addressOf(rec *graph.Record) (_ address, ok bool) {
	known, ok := m.g.Address(rec)
	if !ok {
		return address{}, false
	}
	at := address{digest.Digest(known.Chain), digest.Digest(known.BlobChain)}
	for _, l := range known.Layers {
		at = at.plus(l)
	}
	if len(known.Layers) > 0 {
		m.g.ConfirmAddress(rec, at.chain.String(), at.blobChain.String())
	}
	return at, true
}

// row is what the record of the layer stores.
func (b *layerBlob) row() *graph.Blob {
	return &graph.Blob{
		Digest: b.id.Digest, DiffID: b.id.DiffID, LayerIdentity: b.id.Identity,
		ChainID: b.chain.String(), BlobChainID: b.blobChain.String(),
		MediaType: b.desc.MediaType, URLs: b.desc.URLs, Size: b.desc.Size, Only: true, Common: b.id.Common,
	}
}

// descriptorOf is the descriptor of a record's blob, as far as the row tells. Its size is 0 if unknown.
func descriptorOf(b *graph.Blob) ocispecs.Descriptor {
	desc := ocispecs.Descriptor{MediaType: b.MediaType, Digest: digest.Digest(b.Digest), URLs: slices.Clone(b.URLs)}
	if b.Size > 0 {
		desc.Size = b.Size
	}
	if b.DiffID != "" {
		desc.Annotations = map[string]string{annotationUncompressed: b.DiffID}
	}
	return desc
}

// handledDescriptor is descriptorOf with the annotations that the layer's handler knows.
func handledDescriptor(b *graph.Blob, dh *DescHandler) ocispecs.Descriptor {
	desc := descriptorOf(b)
	for k, v := range dh.Annotations {
		if _, ours := desc.Annotations[k]; ours {
			continue
		}
		if desc.Annotations == nil {
			desc.Annotations = map[string]string{}
		}
		desc.Annotations[k] = v
	}
	return desc
}
