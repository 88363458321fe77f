package cache

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
)

// Labels of blobs (spec VAR-1).
const (
	labelBlobMediaType  = "buildkit.io/blob/mediatype"
	labelBlobAnnotation = "buildkit.io/blob/annotation."
	// labelBlobRef begins the labels by which a blob refers to other compressions of its layer, for garbage collection, too.
	labelBlobRef = "containerd.io/gc.ref.content.blob-"
)

// keptAnnotations are those of a descriptor that its blob remembers (spec VAR-2).
var keptAnnotations = map[string]bool{
	annotationUncompressed: true,
	annotationTOC:          true,

	"io.containers.estargz.uncompressed-size": true,

	snapshot.LabelDevice: true,
	labelDeviceDigest:    true,
	labelDeviceSize:      true,
	"containerd.io/snapshot/overlaybd/blob-fs-type": true,

	// By these a blob of nydus is told from another (BuildKit's, with the build tag of that name).
	"containerd.io/snapshot/nydus-blob":      true,
	"containerd.io/snapshot/nydus-bootstrap": true,
}

// Labels and annotations of blobs that are block devices of overlaybd's.
const (
	labelDeviceDigest = "containerd.io/snapshot/overlaybd/blob-digest"
	labelDeviceSize   = "containerd.io/snapshot/overlaybd/blob-size"
)

// linkBlob ties the blob of desc, which may be the record's own or another compression of it, to the record, whose
// lease on variants lists it: its labels say what it is, and the two blobs refer to each other, so that
// whoever keeps one keeps both (spec VAR-1). Both are local.
func (m *manager) linkBlob(ctx context.Context, rec *graph.Record, id, own string, desc ocispecs.Descriptor) error {
	info, err := m.opt.ContentStore.Info(ctx, desc.Digest)
	if err == nil {
		if add := variantLabels(info.Labels, own, desc); !labelled(info.Labels, add) {
			err = m.labelBlob(ctx, desc.Digest, add)
		}
	}
	if err == nil && desc.Digest.String() != own {
		err = m.labelBlob(ctx, digest.Digest(own), map[string]string{labelBlobRef + desc.Digest.String(): desc.Digest.String()})
	}
	if err != nil {
		return errors.Wrapf(err, "linking blob %s to record %q", desc.Digest, id)
	}
	m.g.InvalidateSize(rec)
	return errors.Wrap(m.store.LaterInts(id, metadata.Int{Key: keySize, Value: sizeUnknown}), "noting that a size is unknown")
}

// leaseVariant makes sure that the record's lease on variants lists a blob. That lease is not flat: labels are
// to be followed from what it lists.
func (m *manager) leaseVariant(ctx context.Context, id, blob string) error {
	name := id + variantsSuffix
	labels := map[string]string{labelStore: m.storeID, labelRecord: id}
	_, err := m.opt.LeaseManager.Create(ctx, leases.WithID(name), leases.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return errors.Wrapf(err, "creating lease %q", name)
	}
	return m.leaseBlob(ctx, name, blob)
}

// leaseBlob has a lease list a blob.
func (m *manager) leaseBlob(ctx context.Context, id, blob string) error {
	err := m.opt.LeaseManager.AddResource(ctx, leases.Lease{ID: id}, contentResource(blob))
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return errors.Wrapf(err, "adding blob %s to lease %q", blob, id)
}

// variantLabels are what is to be added to a blob's labels: a reference to the record's own blob and, unless it has
// a description already (quirk Q49), what its descriptor says.
func variantLabels(have map[string]string, own string, desc ocispecs.Descriptor) map[string]string {
	add := map[string]string{labelBlobRef + own: own}
	for label := range have {
		if label == labelBlobMediaType || strings.HasPrefix(label, labelBlobAnnotation) {
			return add
		}
	}
	if fitsLabel(labelBlobMediaType, desc.MediaType) {
		add[labelBlobMediaType] = desc.MediaType
	}
	for k, v := range desc.Annotations {
		if keptAnnotations[k] && fitsLabel(labelBlobAnnotation+k, v) {
			add[labelBlobAnnotation+k] = v
		}
	}
	return add
}

// labelled tells whether a blob has labels already, as one has that was committed with them.
func labelled(have, labels map[string]string) bool {
	for k, v := range labels {
		if have[k] != v {
			return false
		}
	}
	return true
}

// fitsLabel tells whether the backend takes a label: containerd's limit is 4096 bytes for key and value.
func fitsLabel(key, value string) bool { return value != "" && len(key)+len(value) <= 4096 }

// labelBlob adds labels to a blob and leaves all others alone.
func (m *manager) labelBlob(ctx context.Context, d digest.Digest, labels map[string]string) error {
	_, err := m.opt.ContentStore.Update(ctx, content.Info{Digest: d, Labels: labels}, labelPaths(labels)...)
	return errors.Wrapf(err, "labelling blob %s", d)
}

// labelPaths are the paths of an update of these labels and no others, in order.
func labelPaths(labels map[string]string) []string {
	var paths []string
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		paths = append(paths, "labels."+label)
	}
	return paths
}
