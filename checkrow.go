package cache

import (
	"context"
	"fmt"

	"github.com/layercache/cache/internal/graph"
)

// judgeUnknown says what is wrong with a row whose record memory does not know.
func (c *check) judgeUnknown(ctx context.Context, r *row, e *evidence) (fault, error) {
	id := r.meta.ID
	f := fault{Finding: Finding{Kind: FindingRowUnknown, Record: id, Subject: id}}
	if r.deleted {
		f.Kind, f.Text = FindingMarkedDeleted, fmt.Sprintf("the deletion of record %q was begun and not finished", id)
		if !c.parents[id] { // else what lies on it would be lost
			f.Repair, f.fix = RepairFinishDeletion, func(ctx context.Context) error { return c.m.finishDeletion(ctx, id) }
		}
		return f, nil
	}
	if mut := c.claimedHalf(r); mut != nil {
		return c.judgeHalf(ctx, r, c.m.g.ImmutableID(mut), e)
	}
	for _, p := range r.parents() {
		if p == "" || c.m.g.Lookup(p) != nil {
			continue
		}
		row, err := e.row(p)
		if err != nil {
			return f, err
		}
		if row == nil {
			f.Kind, f.Subject, f.Text = FindingParentMissing, p, fmt.Sprintf("record %q lies on %q, which has no row", id, p)
			return f, nil
		}
	}
	if c.contradictory(id) {
		f.Kind, f.Text = FindingRowContradicts, fmt.Sprintf("row %q, or one it needs, contradicts itself", id)
		return f, nil
	}
	f.Text = fmt.Sprintf("row %q has no record in memory", id)
	return f, nil
}

// claimedHalf returns the mutable record in memory that a row names as its half; nil for none.
func (c *check) claimedHalf(r *row) *graph.Record {
	if r.equalMutable == "" || r.mutable() {
		return nil
	}
	rec := c.m.g.Lookup(r.equalMutable)
	if rec == nil {
		return nil
	}
	if mut := c.m.g.Inspect(rec).Mut; mut == nil || mut.ID != r.equalMutable {
		return nil
	}
	return rec
}

// judgeHalf looks at a row that a Commit whose roll-back failed may have left; imm is the name of the half that
// counts, if there is one. Without a snapshot the row is the name of nothing.
func (c *check) judgeHalf(ctx context.Context, r *row, imm string, e *evidence) (fault, error) {
	id := r.meta.ID
	f := fault{Finding: Finding{
		Kind: FindingRowUnknown, Record: id, Subject: id,
		Text: fmt.Sprintf("row %q claims to be the committed half of %q, which nobody committed", id, r.equalMutable),
	}}
	if imm != "" {
		f.Kind = FindingTwoHalves
		f.Text = fmt.Sprintf("row %q claims to be the committed half of %q, which is %q", id, r.equalMutable, imm)
	}
	info, err := e.snapshot(ctx, r.meta.SnapshotID)
	if err == nil && info == nil && !c.parents[id] {
		f.Repair, f.fix = RepairRemoveRow, func(context.Context) error { return c.m.removeRows(id) }
	}
	return f, err
}

// finishDeletion deletes what is left of a record that is marked as deleted and not in memory.
func (m *manager) finishDeletion(ctx context.Context, id string) error {
	return m.deleteMarked(ctx, leftovers{leases: []string{id, id + viewSuffix, id + variantsSuffix}, rows: []string{id}})
}

// contradictory tells whether a row, or one that it needs, is its own ancestor, lies on a mutable one, or names an
// immutable one as its mutable half. Chains may be long, so the stack is explicit.
func (c *check) contradictory(id string) bool {
	type frame struct {
		id    string
		needs []string
	}
	open := map[string]bool{}
	var stack []frame
	enter := func(id string) {
		bad, needs := false, []string(nil)
		if r := c.seen.rows[id]; r != nil {
			bad, needs = c.contradictsAlone(r), needsOf(r)
		}
		c.unsound[id], open[id] = bad, true
		stack = append(stack, frame{id, needs})
	}
	if _, known := c.unsound[id]; !known {
		enter(id)
	}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(top.needs) == 0 {
			open[top.id] = false
			stack = stack[:len(stack)-1]
			if n := len(stack); n > 0 && c.unsound[top.id] {
				c.unsound[stack[n-1].id] = true
			}
			continue
		}
		next := top.needs[0]
		top.needs = top.needs[1:]
		bad, known := c.unsound[next]
		switch {
		case !known:
			enter(next)
		case bad || open[next]: // what is still open lies below: a cycle
			c.unsound[top.id] = true
		}
	}
	return c.unsound[id]
}

// contradictsAlone looks at what a row says of the rows it names.
func (c *check) contradictsAlone(r *row) bool {
	for _, p := range r.parents() {
		if row := c.seen.rows[p]; row != nil && row.mutable() {
			return true
		}
	}
	mut := c.seen.rows[r.equalMutable]
	return mut != nil && !mut.mutable()
}
