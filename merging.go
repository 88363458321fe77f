package cache

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
)

// This file makes the trees of merges and diffs.

// step is one layer that a merge applies: what lies between two records, of which either may be missing.
type step struct{ lower, upper *graph.Record }

// stepsOf returns what the tree of a merge or a diff is made of, in order (spec EXT-4).
func stepsOf(rec *graph.Record) []step {
	layers := graph.Layers(rec)
	steps := make([]step, len(layers))
	for i, l := range layers {
		switch l.Kind() {
		case graph.Layer:
			steps[i] = step{l.Parents()[0], l}
		case graph.Diff:
			steps[i] = step{l.Parents()[0], l.Parents()[1]}
		case graph.BaseLayer, graph.Merge:
			steps[i].upper = l
		}
	}
	return steps
}

// needed returns the records whose trees the steps need: tops first, those on which no other of them lies as a layer, then
// the rest, which mostly come with the tops.
func needed(steps []step) (tops, rest []*graph.Record) {
	seen, below := map[*graph.Record]bool{}, map[*graph.Record]bool{}
	var all []*graph.Record
	for _, s := range steps {
		for _, rec := range []*graph.Record{s.lower, s.upper} {
			if rec == nil || seen[rec] {
				continue
			}
			seen[rec] = true
			all = append(all, rec)
			if rec.Kind() == graph.Layer {
				below[rec.Parents()[0]] = true
			}
		}
	}
	for _, rec := range all {
		if below[rec] {
			rest = append(rest, rec)
		} else {
			tops = append(tops, rec)
		}
	}
	return tops, rest
}

// merging is the work on one merge or diff.
type merging struct {
	m   *manager
	rec *graph.Record
	st  graph.Status
	src source
	// action is what it is called.
	action string
}

// extractDerived makes the tree of a merge or a diff: first those of what it is made of, at the same time, then its own
// (spec EXT-4). Of several records that share a snapshot one makes it, and the others find it.
func (m *manager) extractDerived(ctx context.Context, rec *graph.Record, st graph.Status, src source) (err error) {
	w := &merging{m: m, rec: rec, st: st, src: m.ranked(src), action: "merging"}
	if rec.Kind() == graph.Diff {
		w.action = "diffing"
	}
	ev := Event{Kind: EventExtract, ID: st.Imm, Reason: rec.Kind().String()}
	ctx, working := m.begin(ctx, ev)
	ctx, done := w.showProgress(ctx)
	defer func() {
		done(err)
		ev.Err = err
		working.done(ev)
	}()
	steps := stepsOf(rec)
	if err := w.inputs(ctx, steps); err != nil {
		return err
	}
	leave, err := enterSlot(ctx, m, &m.treeSlots, st.ImmSnapshot, Event{ID: st.Imm, Reason: PoolTree})
	if err != nil {
		return err
	}
	defer leave()
	if found, err := m.findSnapshot(ctx, rec, st); found || err != nil {
		return err
	}
	if err := w.makeTree(ctx, steps); err != nil {
		return &LayerError{Record: st.Imm, Action: w.action, Err: err}
	}
	if st.Size >= 0 { // of a tree that got lost
		if err := m.store.LaterInts(st.Imm, metadata.Int{Key: keySize, Value: sizeUnknown}); err != nil {
			return errors.Wrap(err, "noting that a size is unknown")
		}
	}
	return m.publishExtracted(ctx, rec, false)
}

// showProgress tells the ref's progress controller what is being made (spec EXT-5).
func (w *merging) showProgress(ctx context.Context) (context.Context, func(error)) {
	id := w.action
	if w.src.nested {
		if id = w.st.Description; id == "" {
			id = w.action + " " + w.st.Imm
		}
	}
	return showProgress(ctx, w.src.progress, id, w.action)
}

// inputs extracts what the merge is made of. The records that a chain of layers brings along are looked at once more
// afterwards: the top of a chain may be there without what lies below.
func (w *merging) inputs(ctx context.Context, steps []step) error {
	tops, rest := needed(steps)
	src := w.src
	src.below, src.nested = false, true // the snapshotter may provide each chain, see prepareRemote
	src.rank.Step--
	for _, recs := range [][]*graph.Record{tops, rest} {
		g, gctx := errgroup.WithContext(ctx)
		for _, rec := range recs {
			g.Go(func() error { return w.m.materializeAgain(gctx, rec, src) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		src.below = true
	}
	return nil
}

// makeTree makes the snapshot. The record's own lease lists it already, so that a crash after it is committed costs nothing: the
// next who wants the tree finds it.
func (w *merging) makeTree(ctx context.Context, steps []step) error {
	m := w.m
	leave, err := enterPool(ctx, m, &m.unpacking, struct{}{}, w.src.rank, Event{ID: w.st.Imm, Reason: PoolUnpack})
	if err != nil {
		return err
	}
	defer leave()
	diffs := m.diffsOfSteps(steps)
	start, err := m.beginningOf(ctx, w.rec, diffs)
	if err != nil {
		return err
	}
	merge := func(ctx context.Context) error {
		if err := w.mergeOnto(ctx, start, diffs); start.snapshot == "" || !errdefs.IsNotFound(err) {
			return err
		}
		return w.mergeOnto(ctx, beginning{}, diffs) // it went in between
	}
	if m.caps.SessionLabels {
		return m.withLabelsOn(ctx, layersUnder(steps), w.src, merge)
	}
	return merge(ctx)
}

// mergeOnto is makeTree on the tree of another merge, if start names one.
func (w *merging) mergeOnto(ctx context.Context, start beginning, diffs []snapshot.Diff) error {
	m, tree := w.m, w.st.ImmSnapshot
	resources := []leases.Resource{m.snapshotResource(tree)}
	if start.snapshot != "" {
		resources = append(resources, m.snapshotResource(start.snapshot))
		diffs = append(start.diffs[:len(start.diffs):len(start.diffs)], diffs[start.layers:]...)
	}
	work, made, err := w.begin(ctx, resources)
	if err != nil {
		return err
	}
	defer made()
	err = m.merger.Merge(work.with(ctx), tree, withoutRepetition(diffs, m.caps.OverlayBased))
	if err != nil {
		if is, _ := m.committed(ctx, tree); is {
			err = nil // by somebody else, or its answer was lost
		}
	}
	work.end(ctx)
	if err != nil {
		m.collectGarbage(ctx)
	}
	return err
}

// begin marks the rows of all that share the snapshot, and makes the lease for the work, at the same time: they wait for different
// files to reach the disk.
func (w *merging) begin(ctx context.Context, resources []leases.Resource) (work *workLease, made func(), err error) {
	m := w.m
	own := m.recordLease(w.st.Imm, w.st.ImmSnapshot, nil)
	var g errgroup.Group
	g.Go(func() (err error) {
		made, err = m.beginMaking(w.rec)
		return err
	})
	g.Go(func() (err error) {
		work, err = m.leaseWork(ctx, w.st.Imm, func(ctx context.Context) error {
			return m.ensureLease(ctx, own)
		}, resources...)
		return err
	})
	if err = g.Wait(); err == nil {
		return work, made, nil
	}
	if work != nil {
		work.end(ctx)
	}
	if made != nil {
		made()
	}
	return nil, nil, err
}

// diffsOfSteps names the snapshots of the steps.
func (m *manager) diffsOfSteps(steps []step) []snapshot.Diff {
	name := func(rec *graph.Record) string {
		if rec == nil {
			return ""
		}
		return m.g.Status(rec).ImmSnapshot
	}
	diffs := make([]snapshot.Diff, len(steps))
	for i, s := range steps {
		diffs[i] = snapshot.Diff{Lower: name(s.lower), Upper: name(s.upper)}
	}
	return diffs
}

// layersUnder returns all layers that the steps read.
func layersUnder(steps []step) []*graph.Record {
	seen := map[*graph.Record]bool{}
	var out []*graph.Record
	for _, s := range steps {
		for _, rec := range []*graph.Record{s.lower, s.upper} {
			for ; rec != nil && !seen[rec]; rec = rec.Parents()[0] {
				seen[rec] = true
				out = append(out, rec)
				if rec.Kind() != graph.Layer {
					break
				}
			}
		}
	}
	return out
}

// withoutRepetition leaves out what is applied again later, except at the beginning where layers that lie on each
// other may serve as they are (spec MRG-3). Whatever a layer puts or removes the later application
// puts or removes as well, and what it leaves alone it leaves alone both times; see docs/adr/0034.
func withoutRepetition(diffs []snapshot.Diff, overlay bool) []snapshot.Diff {
	base := 0
	if overlay {
		base = baseOf(diffs)
	}
	last := make(map[snapshot.Diff]int, len(diffs))
	for i, d := range diffs {
		last[d] = i
	}
	out := slices.Clone(diffs[:base])
	for i := base; i < len(diffs); i++ {
		again := len(out) > 0 && out[len(out)-1] == diffs[i] // it has just been applied
		if last[diffs[i]] == i && !again {
			out = append(out, diffs[i])
		}
	}
	return out
}
