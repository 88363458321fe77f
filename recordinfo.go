package cache

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/usage"
)

// RecordInfo is everything that is known of one record. It is a copy.
type RecordInfo struct {
	usage.Info
	// Kind is "base layer", "layer", "merge" or "diff", by the record's parents.
	Kind string `json:"kind"`
	// State is where the record is in its life: "active", "sealed", "lazy" or "ready"; see the package comment.
	State string `json:"state"`
	// MutableID and ImmutableID are the record's names, empty for one that it does not have. A record that was committed and not
	// finalized has both.
	MutableID   string `json:"mutableID,omitempty"`
	ImmutableID string `json:"immutableID,omitempty"`
	// Children are the IDs of the records that lie on this one, sorted.
	Children []string `json:"children,omitempty"`
	// Snapshots are the keys under which the backend has the record's tree, or is to have it.
	Snapshots []string `json:"snapshots,omitempty"`
	// Retain says that the record stays after its last ref though nobody finalized it.
	Retain bool `json:"retain,omitempty"`
	// LayerType is "windows" for a layer in that layout.
	LayerType string `json:"layerType,omitempty"`
	// Images are the names of the images that the layer was asked for as a part of.
	Images []string `json:"images,omitempty"`
	// Blob is the record's layer as a blob, nil if it never had one.
	Blob *BlobInfo `json:"blob,omitempty"`
	// Values are what the cache's user stored with the record, by key.
	Values map[string]json.RawMessage `json:"values,omitempty"`
}

// BlobInfo describes a layer as a blob.
type BlobInfo struct {
	Digest    digest.Digest `json:"digest,omitempty"`
	MediaType string        `json:"mediaType,omitempty"`
	// Size is in bytes, 0 if unknown.
	Size int64 `json:"size,omitempty"`
	// Local says that the content store has the blob.
	Local bool `json:"local"`
	// Lazy says that there is no tree yet, which is to be made of the blob.
	Lazy bool `json:"lazy,omitempty"`
	// DiffID is the digest of the blob uncompressed. ChainID stands for the layer with all it lies on, by the layers' diff IDs, and
	// BlobChainID by their blobs.
	DiffID      digest.Digest `json:"diffID,omitempty"`
	ChainID     digest.Digest `json:"chainID,omitempty"`
	BlobChainID digest.Digest `json:"blobChainID,omitempty"`
	// URLs are where the blob can be had besides registries.
	URLs []string `json:"urls,omitempty"`
	// Variants are the other compressions of the layer that are local.
	Variants []ocispecs.Descriptor `json:"variants,omitempty"`
}

func (m *manager) Record(ctx context.Context, id string) (*RecordInfo, error) {
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrapf(err, "describing record %q", id)
	}
	defer m.life.end()
	rec := m.g.Lookup(id)
	if rec == nil {
		return nil, errors.Wrapf(errNotFound, "describing record %q", id)
	}
	in := m.g.Inspect(rec)
	if !in.Alive() {
		return nil, errors.Wrapf(errNotFound, "describing record %q", id)
	}
	out := &RecordInfo{Kind: in.Kind.String(), State: in.State.String()}
	for _, half := range halvesOf(in) {
		out.Retain = out.Retain || half.Retain
		if !slices.Contains(out.Snapshots, half.SnapshotID) {
			out.Snapshots = append(out.Snapshots, half.SnapshotID)
		}
		out.LayerType, out.Images = half.LayerType, slices.Clone(half.ImageRefs)
		m.addValues(out, half.ID)
	}
	if in.Mut != nil {
		out.MutableID = in.Mut.ID
	}
	if in.Imm != nil {
		out.ImmutableID = in.Imm.ID
	}
	shown := m.shown(rec, out)
	infos, err := m.DiskUsage(ctx, usage.DiskUsageInfo{Filter: []string{"id==" + strconv.Quote(shown)}})
	if err != nil {
		return nil, err
	}
	if shown == "" || len(infos) == 0 {
		return nil, errors.Wrapf(errNotFound, "describing record %q", id) // it went meanwhile
	}
	out.Info = *infos[0]
	return out, m.describeOwn(ctx, &in, out)
}

// shown returns the ID by which DiskUsage lists a record, "" if it is no more, and notes what lies on it.
func (m *manager) shown(rec *graph.Record, out *RecordInfo) (id string) {
	views := m.g.View()
	for i := range views {
		v := &views[i]
		if v.Record == rec {
			id = v.Meta.ID
		}
		if slices.Contains(v.Parents, out.ImmutableID) {
			out.Children = append(out.Children, v.Meta.ID)
		}
	}
	slices.Sort(out.Children)
	return id
}

// addValues adds what users stored in a row.
func (m *manager) addValues(out *RecordInfo, id string) {
	item, ok := m.store.Get(id)
	if !ok {
		return
	}
	for _, key := range item.Keys() {
		v := item.Get(key)
		if v == nil || ownKeys[key] || key == keyDescription || key == keyRecordType || key == keyLayerType || !json.Valid(v.Value) {
			continue
		}
		if out.Values == nil {
			out.Values = map[string]json.RawMessage{}
		}
		out.Values[key] = slices.Clone(v.Value)
	}
}

// describeOwn adds the record's blob.
func (m *manager) describeOwn(ctx context.Context, in *graph.Inspection, out *RecordInfo) error {
	if in.Imm == nil || in.Imm.Blob == nil {
		return nil
	}
	b := in.Imm.Blob
	out.Blob = &BlobInfo{
		Digest: digest.Digest(b.Digest), MediaType: b.MediaType, Size: max(b.Size, 0), Lazy: b.Only, DiffID: digest.Digest(b.DiffID),
		ChainID: digest.Digest(b.ChainID), BlobChainID: digest.Digest(b.BlobChainID), URLs: slices.Clone(b.URLs),
	}
	if !isDigest(b.Digest) {
		return nil
	}
	return m.walkVariants(ctx, out.Blob.Digest, func(info content.Info) {
		desc, described := variant(info)
		switch {
		case info.Digest == out.Blob.Digest:
			out.Blob.Local, out.Blob.Size = true, info.Size
			if out.Blob.MediaType == "" {
				out.Blob.MediaType = desc.MediaType
			}
		case described:
			out.Blob.Variants = append(out.Blob.Variants, desc)
		}
	})
}
