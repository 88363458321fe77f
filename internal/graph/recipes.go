package graph

import "slices"

// This file finds merges and diffs that are made of the same.

// recipe tells most merges and diffs apart; the parents in between decide.
type recipe struct {
	kind        Kind
	n           int
	first, last *Record
}

func recipeOf(kind Kind, parents []*Record) (recipe, bool) {
	if !kind.Derived() {
		return recipe{}, false
	}
	n := len(parents)
	return recipe{kind: kind, n: n, first: parents[0], last: parents[n-1]}, true
}

func (g *Graph) listRecipeLocked(r *Record) {
	if key, ok := recipeOf(r.kind, r.parents); ok {
		g.recipes[key] = append(g.recipes[key], r)
	}
}

func (g *Graph) unlistRecipeLocked(r *Record) {
	key, ok := recipeOf(r.kind, r.parents)
	if !ok {
		return
	}
	rest := slices.DeleteFunc(g.recipes[key], func(other *Record) bool { return other == r })
	if len(rest) == 0 {
		delete(g.recipes, key)
		return
	}
	g.recipes[key] = rest
}

// sameRecipeLocked lists the visible merges and diffs of the very same parents.
func (g *Graph) sameRecipeLocked(kind Kind, parents []*Record) []*Record {
	key, ok := recipeOf(kind, parents)
	if !ok {
		return nil
	}
	var out []*Record
	for _, r := range g.recipes[key] {
		if slices.Equal(r.parents, parents) {
			out = append(out, r)
		}
	}
	return out
}

// SnapshotOf returns the snapshot of a visible merge or diff of the very same parents, in their order, be it there
// or yet to be made: one that is there, if there is one. "" says that there is no such record.
func (g *Graph) SnapshotOf(kind Kind, parents []*Record) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	snap := ""
	for _, r := range g.sameRecipeLocked(kind, parents) {
		if snap = r.imm.SnapshotID; r.state == Ready {
			break
		}
	}
	return snap
}

// Sharers returns the merges or diffs that have the same snapshot as r, by name, r among them if it is visible.
func (g *Graph) Sharers(r *Record) map[string]*Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]*Record{}
	for _, other := range g.sameRecipeLocked(r.kind, r.parents) {
		if other.imm.SnapshotID == r.imm.SnapshotID {
			out[other.imm.ID] = other
		}
	}
	return out
}

// Beginning is a merge of the first parents of another.
type Beginning struct {
	SnapshotID string
	// Layers is of how many layers it consists.
	Layers int
}

// Beginnings returns merges of the first two or more, but not all, of r's parents in the same order, the longest first. Whether
// their snapshots are there is not said.
func (g *Graph) Beginnings(r *Record) (out []Beginning) {
	if r.kind != Merge {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	layers := int(r.layers)
	for n := len(r.parents) - 1; n >= 2; n-- {
		layers -= int(r.parents[n].layers)
		for _, other := range g.sameRecipeLocked(Merge, r.parents[:n]) {
			b := Beginning{SnapshotID: other.imm.SnapshotID, Layers: layers}
			if !slices.Contains(out, b) {
				out = append(out, b)
			}
		}
	}
	return out
}
