package cache

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/snapshot"
)

// This file has a merge begin on the tree of another one where snapshots can lie on each other.

// deeper is how many directories more a merge may have for beginning on another's tree than it would have by itself. Each
// merge that extends another adds one, and what is mounted gets slower with each.
const deeper = 16

// beginning is the tree of another merge that a merge can begin on.
type beginning struct {
	// snapshot is that tree, "" for none.
	snapshot string
	// diffs make it, in such a way that the merge snapshotter takes it as it is (spec MRG-3), and layers is how many of the
	// merge's own they stand for.
	diffs  []snapshot.Diff
	layers int
}

// beginningOf looks for the longest merge of the first of a merge's parents whose tree is there. Their records are the same in
// the same order, so the tree is what applying their layers would give. diffs are all of the merge.
func (m *manager) beginningOf(ctx context.Context, rec *graph.Record, diffs []snapshot.Diff) (beginning, error) {
	if !m.caps.OverlayBased {
		return beginning{}, nil
	}
	most := baseOf(diffs) + deeper
	for _, b := range m.g.Beginnings(rec) {
		chain, err := m.chainOf(ctx, b.SnapshotID, most)
		if err != nil {
			return beginning{}, err
		}
		if len(chain) > 0 {
			return beginning{snapshot: b.SnapshotID, diffs: chain, layers: b.Layers}, nil
		}
	}
	return beginning{}, nil
}

// baseOf counts the diffs at the beginning that lie on each other.
func baseOf(diffs []snapshot.Diff) (n int) {
	for below := ""; n < len(diffs) && diffs[n].Lower == below && diffs[n].Upper != ""; n++ {
		below = diffs[n].Upper
	}
	return n
}

// chainOf returns a snapshot and those it lies on as diffs, lowest first; nil if it is not there, or lies on most or more.
func (m *manager) chainOf(ctx context.Context, id string, most int) (chain []snapshot.Diff, err error) {
	for id != "" {
		info, err := m.opt.Snapshotter.Stat(ctx, id)
		if errdefs.IsNotFound(err) || err == nil && len(chain) == most {
			return nil, nil
		}
		if err != nil {
			return nil, errors.Wrapf(err, "looking for snapshot %q", id)
		}
		chain = append(chain, snapshot.Diff{Lower: info.Parent, Upper: id})
		id = info.Parent
	}
	slices.Reverse(chain)
	return chain, nil
}

// basesOf returns the trees that a merge's lies on and that are no layer's: it began on other merges', which may be gone.
func (m *manager) basesOf(ctx context.Context, rec *graph.Record, tree string) (parts []graph.Part, err error) {
	if !m.caps.OverlayBased || rec.Kind() != graph.Merge {
		return nil, nil
	}
	inputs := map[string]bool{"": true}
	for _, s := range stepsOf(rec) {
		if s.upper != nil {
			inputs[m.g.Status(s.upper).ImmSnapshot] = true
		}
	}
	info, err := m.opt.Snapshotter.Stat(ctx, tree)
	for err == nil && !inputs[info.Parent] {
		base := info.Parent
		u, uerr := m.opt.Snapshotter.Usage(ctx, base)
		if uerr != nil {
			return nil, uerr
		}
		parts = append(parts, graph.Part{Snapshot: true, ID: base, Size: u.Size})
		info, err = m.opt.Snapshotter.Stat(ctx, base)
	}
	return parts, err
}
