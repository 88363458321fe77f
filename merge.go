package cache

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/progress"
)

// maxLayers is of how many layers a merge may consist. With layers built in between, merges of a merge with itself double
// their number with each step, so that a few dozen of them would be more than any machine can apply.
const maxLayers = 1 << 16

func (m *manager) Merge(ctx context.Context, parents []ImmutableRef, pg progress.Controller, opts ...RefOption) (ImmutableRef, error) {
	o, err := parseOptions(opts)
	if err != nil {
		return nil, err
	}
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "merging")
	}
	defer m.life.end()
	parents = slices.DeleteFunc(slices.Clone(parents), isNilRef)
	if len(parents) == 0 {
		return nil, nil //nolint:nilnil // spec MGR-31
	}
	start := m.eventStart()
	ref, err := m.merge(ctx, parents, pg, o)
	return m.born(ref, "merge", start, errors.Wrap(err, "merging"))
}

func (m *manager) Diff(ctx context.Context, lower, upper ImmutableRef, pg progress.Controller, opts ...RefOption) (ImmutableRef, error) {
	o, err := parseOptions(opts)
	if err != nil {
		return nil, err
	}
	if isNilRef(lower) {
		return nil, errors.Wrap(errInvalid, "a diff needs a lower ref")
	}
	if isNilRef(upper) {
		upper = nil
	}
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "making a diff")
	}
	defer m.life.end()
	start := m.eventStart()
	ref, err := m.diff(ctx, lower, upper, pg, o)
	return m.born(ref, "diff", start, errors.Wrap(err, "making a diff"))
}

// born tells what became of a merge or a diff. The result of one that failed is an untyped nil (quirk Q01).
func (m *manager) born(ref *immutableRef, what string, start time.Time, err error) (ImmutableRef, error) {
	if err != nil {
		m.observe(Event{Kind: EventNew, Reason: what, Err: err}, start)
		return nil, err
	}
	if ref.triggers { // else it is one more ref to a record that exists
		m.observe(Event{Kind: EventNew, ID: ref.id, Reason: what}, start)
	}
	return ref, nil
}

// isNilRef tells whether there is no ref, be the nil one of a type.
func isNilRef(ref ImmutableRef) bool {
	if ref == nil {
		return true
	}
	v := reflect.ValueOf(ref)
	switch v.Kind() { //nolint:exhaustive // nothing else can be nil
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan, reflect.Interface:
		return v.IsNil()
	}
	return false
}

// input is a record that a merge or a diff is made of, with what its ref knows. Whoever has it holds a link on the record.
type input struct {
	rec      *graph.Record
	id       string
	handlers DescHandlers
	progress progress.Controller
}

// inputs holds links on records until a record that is made of them takes them over.
type inputs struct {
	m    *manager
	recs []*graph.Record
}

// take resolves a caller's ref and holds its record. Another implementation's is looked up by its ID (spec OPT-3).
func (in *inputs) take(ctx context.Context, ref ImmutableRef, o refOptions) (input, error) {
	rec, dhs, err := in.m.resolveParent(ctx, ref, o)
	if err != nil {
		return input{}, err
	}
	in.recs = append(in.recs, rec)
	i := input{rec: rec, id: in.m.g.ImmutableID(rec), handlers: dhs}
	if own, ok := ref.(*immutableRef); ok {
		i.progress = own.progress
	}
	return i, nil
}

// hold holds records that are alive since one that lies on them is held.
func (in *inputs) hold(recs ...*graph.Record) error {
	for _, rec := range recs {
		id := in.m.g.ImmutableID(rec)
		if !in.m.g.Link(rec, id) {
			return errors.Wrapf(errNotFound, "parent %q", id)
		}
		in.recs = append(in.recs, rec)
	}
	return nil
}

// handOver leaves the links to a record that was made.
func (in *inputs) handOver() { in.recs = nil }

// drop gives back what is still held. Records that nobody else wants may go with that, each in good order (spec LOCK-4).
func (in *inputs) drop(ctx context.Context) {
	for _, rec := range in.recs {
		in.m.unlink(context.WithoutCancel(ctx), rec)
	}
	in.recs = nil
}

// flatten puts in place of each merge what it is made of (spec MGR-32).
func flatten(recs []*graph.Record) []*graph.Record {
	var out []*graph.Record
	for _, rec := range recs {
		if rec.Kind() == graph.Merge {
			out = append(out, rec.Parents()...)
		} else {
			out = append(out, rec)
		}
	}
	return out
}

// unionOf joins handlers; of several for one blob the last counts (spec MGR-34).
func unionOf(ins []input) DescHandlers {
	var out DescHandlers
	for _, in := range ins {
		if out == nil && len(in.handlers) > 0 {
			out = DescHandlers{}
		}
		maps.Copy(out, in.handlers)
	}
	return out
}

// merge makes the record of a merge, or a ref to the only record that there is to merge (spec MGR-33, MGR-34).
func (m *manager) merge(ctx context.Context, parents []ImmutableRef, pg progress.Controller, o refOptions) (*immutableRef, error) {
	callers, own := inputs{m: m}, inputs{m: m}
	defer callers.drop(ctx)
	defer own.drop(ctx)
	var (
		ins  []input
		recs []*graph.Record
	)
	for _, p := range parents {
		in, err := callers.take(ctx, p, o)
		if err != nil {
			return nil, err
		}
		ins, recs = append(ins, in), append(recs, in.rec)
	}
	recs = flatten(recs)
	if len(recs) == 1 {
		return m.onlyOne(recs[0], ins[0], pg)
	}
	if err := own.hold(recs...); err != nil {
		return nil, err
	}
	rec, id, err := m.newDerived(ctx, &own, graph.Merge, recs, nil, o)
	if err != nil {
		return nil, err
	}
	return m.newImmutableRef(rec, id, pg, unionOf(ins), true), nil
}

// onlyOne is the merge of one record: another ref to it, which does not count as a use (spec MGR-33, quirk Q78).
func (m *manager) onlyOne(rec *graph.Record, in input, pg progress.Controller) (*immutableRef, error) {
	if pg == nil {
		pg = in.progress
	}
	id := m.g.ImmutableID(rec)
	if !m.g.Clone(rec, id, false) {
		return nil, errors.Wrapf(errNotFound, "parent %q", id)
	}
	return m.newImmutableRef(rec, id, pg, in.handlers, false), nil
}

// layersBetween returns the layers of upper that are not in lower, if all of lower's come first in upper and at
// least two are left (spec MGR-38); else nil.
func layersBetween(lower, upper *graph.Record) []*graph.Record {
	if upper == nil || upper.LayerCount() < lower.LayerCount()+2 {
		return nil
	}
	low, up := graph.Layers(lower), graph.Layers(upper)
	if !slices.Equal(low, up[:len(low)]) {
		return nil
	}
	return up[len(low):]
}

// diff makes the record of a diff, or the merge of the layers that lie between (spec MGR-38, MGR-39).
func (m *manager) diff(ctx context.Context, lower, upper ImmutableRef, pg progress.Controller, o refOptions) (*immutableRef, error) {
	callers, own := inputs{m: m}, inputs{m: m}
	defer callers.drop(ctx)
	defer own.drop(ctx)
	ins := make([]input, 0, 2)
	recs := make([]*graph.Record, 2)
	for i, ref := range []ImmutableRef{lower, upper} {
		if ref == nil {
			continue
		}
		in, err := callers.take(ctx, ref, o)
		if err != nil {
			return nil, err
		}
		ins, recs[i] = append(ins, in), in.rec
	}
	kind, below := graph.Diff, []birth(nil)
	if between := layersBetween(recs[0], recs[1]); between != nil {
		kind = graph.Merge
		recs, below = m.diffsOf(between)
	}
	for _, held := range append([]birth{{parents: recs}}, below...) {
		if err := own.hold(slices.DeleteFunc(slices.Clone(held.parents), isNoRecord)...); err != nil {
			return nil, err
		}
	}
	rec, id, err := m.newDerived(ctx, &own, kind, recs, below, o)
	if err != nil {
		return nil, err
	}
	return m.newImmutableRef(rec, id, pg, unionOf(ins), true), nil
}

func isNoRecord(rec *graph.Record) bool { return rec == nil }

// diffsOf returns what a merge of single layers is made of: those that lie on nothing themselves, and for each other
// one, as nil, the diff between it and its parent, which is to be born (spec MGR-38).
func (m *manager) diffsOf(layers []*graph.Record) (parents []*graph.Record, below []birth) {
	parents = make([]*graph.Record, len(layers))
	for i, l := range layers {
		if l.Kind() != graph.Layer {
			parents[i] = l
			continue
		}
		p := l.Parents()[0]
		ids := []string{m.g.ImmutableID(p), m.g.ImmutableID(l)}
		desc := `diff "` + ids[0] + `" -> "` + ids[1] + `"`
		below = append(below, birth{
			id: newID(), state: graph.Lazy, kind: graph.Diff, opts: refOptions{description: &desc},
			parents: []*graph.Record{p, l}, parentIDs: ids,
		})
	}
	return parents, below
}

// newDerived makes the record of a merge or a diff, whose parents are held, with the diffs that are born along with
// it. There is no snapshot until somebody needs it (spec MGR-34, MGR-39). If there is a record of the very same parents, the
// two share one.
func (m *manager) newDerived(ctx context.Context, held *inputs, kind graph.Kind, parents []*graph.Record, below []birth, o refOptions) (*graph.Record, string, error) {
	if err := checkLayerCount(kind, parents); err != nil {
		return nil, "", err
	}
	o.imageRefs = nil // they are about layers from images
	b := birth{id: newID(), state: graph.Lazy, kind: kind, parents: parents, opts: o, below: below}
	b.parentIDs = m.namesOf(kind, parents, below)
	if len(below) == 0 {
		b.snapshotID = m.g.SnapshotOf(kind, parents)
	}
	for _, made := range append([]birth{b}, below...) {
		if err := m.finalizeAll(ctx, made.parents); err != nil {
			return nil, "", errors.Wrapf(err, "finalizing the parents of record %q", b.id)
		}
	}
	rec, err := m.stage(ctx, b)
	if err != nil {
		return nil, "", errors.Wrapf(err, "making record %q", b.id)
	}
	held.handOver()
	if err := m.markNewSharer(rec, b.id); err != nil {
		m.settle(ctx, rec, m.g.Abandon(rec))
		return nil, "", errors.Wrapf(err, "making record %q", b.id)
	}
	return rec, b.id, nil
}

// namesOf returns the parents' IDs; those that are missing in a merge are born along with it.
func (m *manager) namesOf(kind graph.Kind, parents []*graph.Record, below []birth) []string {
	ids := make([]string, len(parents))
	for i, p := range parents {
		switch {
		case p != nil:
			ids[i] = m.g.ImmutableID(p)
		case kind == graph.Merge:
			ids[i], below = below[0].id, below[1:]
		}
	}
	return ids
}

func (m *manager) finalizeAll(ctx context.Context, recs []*graph.Record) error {
	for _, rec := range recs {
		if rec == nil {
			continue
		}
		if err := m.finalize(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// checkLayerCount refuses merges that nobody could ever make a tree of.
func checkLayerCount(kind graph.Kind, parents []*graph.Record) error {
	if kind != graph.Merge {
		return nil
	}
	n := 0
	for _, p := range parents {
		if p == nil {
			n++
			continue
		}
		if n += p.LayerCount(); n > maxLayers {
			return errors.Wrapf(errInvalid, "more than %d layers", maxLayers)
		}
	}
	return nil
}
