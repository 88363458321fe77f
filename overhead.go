package cache

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/usage"
)

// Inspector tells of a cache what DiskUsage does not.
type Inspector interface {
	// Overhead lists what takes up space beside the records: databases, the reserve, transfers that are not finished, snapshots and blobs that no
	// record owns, sorted by kind and name. Together with the sizes that DiskUsage reports it is what the cache
	// occupies, as far as the backend knows. Nothing is changed.
	//
	// What an operation under way has made and not published yet is among the snapshots and blobs. An error of the
	// backend is returned instead of a list.
	Overhead(ctx context.Context) ([]usage.Overhead, error)
	// Record describes the record with a name in all detail; the name may be that of either half of a pair that was committed and
	// not finalized. It takes no ref and counts as no use. Errors: IsNotFound; those of the backend.
	Record(ctx context.Context, id string) (*RecordInfo, error)
}

func (m *manager) Overhead(ctx context.Context) ([]usage.Overhead, error) {
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "listing what is no record's")
	}
	defer m.life.end()
	var out []usage.Overhead
	for _, list := range []func(context.Context) ([]usage.Overhead, error){
		m.databases, m.reserve, m.ingests, m.orphanSnapshots, m.orphanBlobs,
	} {
		found, err := list(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	slices.SortFunc(out, func(a, b usage.Overhead) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (m *manager) databases(context.Context) ([]usage.Overhead, error) {
	var out []usage.Overhead
	for _, path := range m.opt.Databases {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the snapshotter makes its own when it needs it
		}
		if err != nil {
			return nil, errors.WithStack(err)
		}
		out = append(out, usage.Overhead{Kind: usage.OverheadDatabase, Name: path, Size: st.Size()})
	}
	return out, nil
}

func (m *manager) reserve(context.Context) ([]usage.Overhead, error) {
	if m.opt.Reserve == nil {
		return nil, nil
	}
	name, size, err := m.opt.Reserve.Kept()
	if err != nil || size == 0 {
		return nil, err
	}
	return []usage.Overhead{{Kind: usage.OverheadReserve, Name: name, Size: size}}, nil
}

func (m *manager) ingests(ctx context.Context) ([]usage.Overhead, error) {
	statuses, err := m.opt.ContentStore.ListStatuses(ctx)
	if err != nil {
		return nil, errors.Wrap(err, "listing transfers")
	}
	out := make([]usage.Overhead, 0, len(statuses))
	for _, s := range statuses {
		out = append(out, usage.Overhead{Kind: usage.OverheadIngest, Name: s.Ref, Size: s.Offset})
	}
	return out, nil
}

// orphanSnapshots lists the snapshots that neither are a record's nor lie below one that is. The backend is asked before memory,
// so that a record made meanwhile does not count as missing.
func (m *manager) orphanSnapshots(ctx context.Context) ([]usage.Overhead, error) {
	parents := map[string]string{}
	err := m.opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		parents[info.Name] = info.Parent
		return nil
	})
	if err != nil {
		return nil, errors.Wrap(err, "listing snapshots")
	}
	all := m.g.InspectAll()
	for i := range all {
		in := &all[i]
		for _, half := range halvesOf(*in) {
			for _, key := range []string{half.SnapshotID + viewSuffix, half.SnapshotID} {
				for below, ok := parents[key]; ok; below, ok = parents[key] {
					delete(parents, key)
					key = below
				}
			}
		}
	}
	out := make([]usage.Overhead, 0, len(parents))
	for key := range parents {
		u, err := m.opt.Snapshotter.Usage(ctx, key)
		if errdefs.IsNotFound(err) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, errors.Wrapf(err, "measuring snapshot %q", key)
		}
		out = append(out, usage.Overhead{Kind: usage.OverheadSnapshot, Name: key, Size: u.Size})
	}
	return out, nil
}

// orphanBlobs lists the blobs that neither are a record's nor a variant of one that is.
func (m *manager) orphanBlobs(ctx context.Context) ([]usage.Overhead, error) {
	infos := map[digest.Digest]content.Info{}
	err := m.opt.ContentStore.Walk(ctx, func(info content.Info) error {
		infos[info.Digest] = info
		return nil
	})
	if err != nil {
		return nil, errors.Wrap(err, "listing blobs")
	}
	owned := map[digest.Digest]bool{}
	all := m.g.InspectAll()
	for i := range all {
		in := &all[i]
		if own := blobOf(in); own != "" && !owned[own] {
			markVariants(infos, own, owned)
			owned[own] = true
		}
	}
	var out []usage.Overhead
	for d, info := range infos {
		if !owned[d] {
			out = append(out, usage.Overhead{Kind: usage.OverheadBlob, Name: d.String(), Size: info.Size})
		}
	}
	return out, nil
}

// blobOf returns the digest of a record's own blob, "" if it has none.
func blobOf(in *graph.Inspection) digest.Digest {
	if in.Imm == nil || in.Imm.Blob == nil || !isDigest(in.Imm.Blob.Digest) {
		return ""
	}
	return digest.Digest(in.Imm.Blob.Digest)
}

// markVariants marks the variants of a blob, which are those that partsOfBlob lists.
func markVariants(infos map[digest.Digest]content.Info, own digest.Digest, owned map[digest.Digest]bool) {
	_ = walkLinks(own, func(d digest.Digest) (content.Info, bool, error) {
		info, local := infos[d]
		return info, local, nil // nothing can fail
	}, func(info content.Info) {
		if _, described := variant(info); described {
			owned[info.Digest] = true
		}
	})
}
