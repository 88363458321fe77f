package cache_test

import (
	"maps"
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
)

// This file is what the model knows of merges and diffs.

// derivedTree is the tree of a merge or a diff; those of the same inputs share it (issue 5 point 4).
type derivedTree struct{ made bool }

// change is one layer that a merge applies; either side may be missing.
type change struct{ lower, upper *layer }

// walk lists the layers that a layer consists of (spec WALK-1, WALK-2).
func (l *layer) walk() []*layer {
	switch {
	case l.kind == "merge":
		var out []*layer
		for _, in := range l.inputs {
			out = append(out, in.walk()...)
		}
		return out
	case l.kind == "diff":
		if lower, upper := l.inputs[0], l.inputs[1]; upper != nil && upper.kind == "" && upper.parent == lower {
			return []*layer{upper}
		}
		return []*layer{l}
	case l.parent != nil:
		return append(l.parent.walk(), l)
	}
	return []*layer{l}
}

// changes lists what the tree of a merge or a diff is made of (spec EXT-4).
func (l *layer) changes() []change {
	var out []change
	for _, w := range l.walk() {
		if w.kind == "diff" {
			out = append(out, change{w.inputs[0], w.inputs[1]})
		} else {
			out = append(out, change{w.parent, w})
		}
	}
	return out
}

// below lists what a layer lies on, each time it is named (spec DU-3).
func (l *layer) below() (out []*layer) {
	for _, p := range append([]*layer{l.parent}, l.inputs...) {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}

// needs lists what has to be there for the tree of a merge or a diff to be made.
func (l *layer) needs() (out []*layer) {
	for _, c := range l.changes() {
		for _, n := range []*layer{c.lower, c.upper} {
			if n != nil && !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// reaches tells whether a layer lies on another, however far down.
func (l *layer) reaches(other *layer) bool {
	return l == other || slices.ContainsFunc(l.below(), func(p *layer) bool { return p.reaches(other) })
}

// mergedFiles puts changes on top of each other.
func mergedFiles(changes []change) map[string]string {
	files := map[string]string{}
	side := func(l *layer) map[string]string {
		if l == nil {
			return nil
		}
		return l.files
	}
	for _, c := range changes {
		lower, upper := side(c.lower), side(c.upper)
		for name := range lower {
			if _, ok := upper[name]; !ok {
				delete(files, name)
			}
		}
		for name, text := range upper {
			if had, ok := lower[name]; !ok || had != text {
				files[name] = text
			}
		}
	}
	return files
}

// derive makes the record of a merge or a diff (spec MGR-34, MGR-39).
func (m *model) derive(kind string, inputs []*layer) *layer {
	l := &layer{kind: kind, inputs: inputs, tree: &derivedTree{}}
	for _, other := range m.layers {
		if other.kind == kind && slices.Equal(other.inputs, inputs) {
			l.tree = other.tree
		}
	}
	for _, in := range inputs {
		if in != nil {
			m.finalizeLayer(in)
		}
	}
	l.files = mergedFiles(l.changes())
	l.imm = m.newHalf("i", l)
	l.imm.fromBlob = true // it may have no size
	m.layers = append(m.layers, l)
	return l
}

// merge is Merge (spec MGR-31 to MGR-36).
func (m *model) merge(from []*handle) (*handle, answer) {
	var inputs []*layer
	handled := false
	for _, h := range from {
		if h.half.layer == nil {
			return nil, notFound
		}
		handled = handled || h.handled
		if h.layer.kind == "merge" {
			inputs = append(inputs, h.layer.inputs...)
		} else {
			inputs = append(inputs, h.layer)
		}
	}
	var h *handle
	if len(inputs) == 1 {
		h = m.newHandle(inputs[0].imm, false)
	} else {
		h = m.newHandle(m.derive("merge", inputs).imm, true)
	}
	h.handled = handled
	return h, fine
}

// diff is Diff (spec MGR-37, MGR-39), of what is no ancestry.
func (m *model) diff(lower, upper *handle) (*handle, answer) {
	inputs, handled := []*layer{lower.layer, nil}, lower.handled
	if upper != nil {
		inputs[1], handled = upper.layer, handled || upper.handled
	}
	if lower.half.layer == nil || upper != nil && upper.half.layer == nil {
		return nil, notFound
	}
	h := m.newHandle(m.derive("diff", inputs).imm, true)
	h.handled = handled
	return h, fine
}

// small has scripts stay readable, and quick.
func (x *script) small(rt *rapid.T, hs ...*handle) {
	n := 0
	for _, h := range hs {
		n += len(h.layer.walk())
	}
	if n > 12 {
		rt.Skip("that is enough")
	}
}

func (x *script) merge(rt *rapid.T) {
	var from []*handle
	for range rapid.IntRange(1, 3).Draw(rt, "inputs") {
		from = append(from, x.pickHandle(rt, immutable))
	}
	x.small(rt, from...)
	h, want := x.m.merge(from)
	for _, s := range x.suts {
		inputs := []cache.ImmutableRef{nil}
		for _, in := range from {
			inputs = append(inputs, s.immutable(in))
		}
		ref, err := s.env.Manager.Merge(ctx, inputs, nil)
		s.expect(want, err, "Merge")
		if err == nil {
			s.learn(h, ref)
		}
	}
}

func (x *script) diff(rt *rapid.T) {
	lower := x.pickHandle(rt, immutable)
	var upper *handle
	if rapid.IntRange(0, 4).Draw(rt, "scratch") > 0 {
		upper = x.pickHandle(rt, immutable)
		low, up := lower.layer.walk(), upper.layer.walk()
		if len(up) > len(low)+1 && slices.Equal(low, up[:len(low)]) {
			rt.Skip("it is the merge of several")
		}
		x.small(rt, upper)
	}
	x.small(rt, lower)
	h, want := x.m.diff(lower, upper)
	for _, s := range x.suts {
		var u cache.ImmutableRef
		if upper != nil {
			u = s.immutable(upper)
		}
		ref, err := s.env.Manager.Diff(ctx, s.immutable(lower), u, nil)
		s.expect(want, err, "Diff")
		if err == nil {
			s.learn(h, ref)
		}
	}
}

// pulled lists the layers whose blobs have to be pulled for the tree of a layer to be there.
func (m *model) pulled(l *layer, found map[*layer]bool) map[*layer]bool {
	switch {
	case l == nil:
	case l.tree != nil && !l.tree.made:
		for _, n := range l.needs() {
			m.pulled(n, found)
		}
	case l.blob != "" && !m.snaps[l.key()]:
		if !m.local[l.blob] {
			found[l] = true
		}
		m.pulled(l.parent, found)
	}
	return found
}

// skipChance ends a step in which two layers would have the same blob pulled, or make the same snapshot, at the same time: which of
// them does is up to chance.
func (x *script) skipChance(rt *rapid.T, l *layer) {
	blobs, keys := map[string]bool{}, map[string]bool{}
	for p := range x.m.pulled(l, map[*layer]bool{}) {
		if blobs[p.blob] || keys[p.key()] {
			rt.Skip("up to chance")
		}
		blobs[p.blob], keys[p.key()] = true, true
	}
}

// closure adds the snapshots that others lie on, which stay with them (spec LEASE-2).
func (s *sut) closure(snaps map[string]bool) {
	for _, name := range slices.Collect(maps.Keys(snaps)) {
		for name != "" {
			info, err := s.env.Opt.Snapshotter.Stat(ctx, name)
			require.NoError(s.tb, err, "%s: snapshot %s", s.name, name)
			if name = info.Parent; name != "" {
				snaps[name] = true
			}
		}
	}
}
