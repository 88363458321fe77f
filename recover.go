package cache

import (
	"context"
	"time"

	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// recovery is one start of a manager: everything is read and judged first, and only then, if no
// backend failed, repaired and published (spec INIT-3).
type recovery struct {
	m    *manager
	rows []*found // in the order of their IDs
	byID map[string]*found
	// missing stands for rows that others name and that are not there.
	missing *found
	leases  []foundLease
	// stack is for walks of chains, which may be tens of thousands of records long.
	stack    []*found
	parent   [1]*graph.Record // for insert
	clear    []*found         // immutable rows whose equalMutable is to be cleared
	unleased []*found         // sound rows whose lease is to be made anew
	lost     lostTrees
}

// recover loads every record and repairs what a crash left (spec section 7). It writes nothing where there is
// nothing to repair, lists the leases once, and asks the snapshotter about mutable records only.
func (m *manager) recover(ctx context.Context) error {
	r := &recovery{m: m, missing: &found{row: row{meta: &graph.Meta{}}, verdict: bad}}
	if err := r.read(ctx); err != nil {
		return err
	}
	for _, f := range r.rows {
		if err := r.judge(ctx, f); err != nil {
			return errors.Wrapf(err, "loading record %q", f.meta.ID)
		}
	}
	if err := r.repair(ctx); err != nil {
		return errors.Wrap(err, "repairing what an earlier process left")
	}
	r.leases = nil // nobody needs them any more, and they are as large as the rows
	m.g.Expect(len(r.rows))
	for _, f := range r.rows {
		r.publish(f)
	}
	r.keepMarks()
	return nil
}

// judge decides what is to become of a row, its parents first (spec INIT-1, INIT-2). An error of
// the backend is the result only if it keeps the answer from being known.
func (r *recovery) judge(ctx context.Context, f *found) error {
	stack := append(r.stack[:0], f)
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		if at.verdict != undecided && at.verdict != judging {
			stack = stack[:len(stack)-1]
			continue
		}
		at.verdict = judging
		waiting := false
		look := func(need *found) {
			switch {
			case need == nil:
			case need.verdict == undecided:
				stack = append(stack, need)
				waiting = true
			case need.verdict == judging:
				need.verdict = unusable // everything being judged lies below on the stack: a cycle
			}
		}
		for _, p := range at.below {
			look(p)
		}
		look(at.mut)
		if waiting {
			continue
		}
		v, err := r.conclude(ctx, at)
		if err != nil {
			return err
		}
		if at.verdict != unusable {
			at.verdict = v
		}
		stack = stack[:len(stack)-1]
	}
	r.stack = stack
	return nil
}

// needsOf lists the rows whose verdicts a row's own depends on.
func needsOf(row *row) []string {
	var ids []string
	for _, p := range row.parents() {
		if p != "" {
			ids = append(ids, p)
		}
	}
	if row.equalMutable != "" {
		ids = append(ids, row.equalMutable)
	}
	return ids
}

// conclude judges a row whose parents have been judged.
func (r *recovery) conclude(ctx context.Context, f *found) (verdict, error) {
	if f.deleted {
		return bad, nil // its deletion is to be finished
	}
	for _, p := range f.below {
		switch {
		case p == nil:
		case p.verdict == bad || p.verdict == unusable:
			r.lostWith(f, p)
			return p.verdict, nil
		case p.mutable():
			return unusable, nil // nothing can lie on what may still be written to
		}
	}
	switch {
	case r.isLost(f):
		return r.concludeLost(ctx, f)
	case f.mutable():
		return r.concludeMutable(ctx, f)
	case f.equalMutable != "":
		return r.concludeHalf(ctx, f)
	case f.leased:
		return sound, nil
	}
	return r.concludeUnleased(ctx, f)
}

// concludeUnleased judges a finalized row whose lease is gone: while there is anything left of it, the
// lease is made anew (spec INIT-10).
func (r *recovery) concludeUnleased(ctx context.Context, f *found) (verdict, error) {
	exists, err := r.m.snapshotExists(ctx, f.meta.SnapshotID)
	if err != nil {
		return bad, err
	}
	if b := f.meta.Blob; !exists && b != nil && isDigest(b.Digest) {
		if exists, err = r.m.blobLocal(ctx, digest.Digest(b.Digest)); err != nil {
			return bad, err
		}
	}
	if !exists && !lazyKind(&f.row) {
		return bad, nil
	}
	r.unleased = append(r.unleased, f)
	return sound, nil
}

// concludeMutable judges a mutable row. One that nobody asked to keep was in use when its
// process died, and goes (spec INIT-12).
func (r *recovery) concludeMutable(ctx context.Context, f *found) (verdict, error) {
	exists, err := r.m.snapshotExists(ctx, f.meta.SnapshotID)
	if err != nil || !exists {
		return bad, err
	}
	if !f.meta.Retain && (f.half == nil || !f.half.meta.Retain) {
		return bad, nil
	}
	if !f.leased {
		r.unleased = append(r.unleased, f)
	}
	return sound, nil
}

// concludeHalf judges an immutable row that names a mutable one (spec INIT-5, INIT-6).
func (r *recovery) concludeHalf(ctx context.Context, f *found) (verdict, error) {
	if f.mut.verdict == sound && f.mut.half == f {
		if f.mut.mutable() {
			return sound, nil
		}
		return unusable, nil
	}
	if f.mut.verdict == unusable {
		return unusable, nil
	}
	exists, err := r.m.snapshotExists(ctx, f.meta.SnapshotID)
	if err != nil || !exists {
		return bad, err
	}
	r.clear = append(r.clear, f)
	if !f.leased {
		r.unleased = append(r.unleased, f)
	}
	return sound, nil
}

// repair finishes deletions, removes what is definitively bad, ends half-done finalizations, and
// deletes the leases of this store that have no record (spec INIT-11). Leases go before rows,
// so that a crash in between is repaired by the next start in the same way.
func (r *recovery) repair(ctx context.Context) error {
	var gone []*found
	for _, f := range r.rows {
		if f.verdict == bad {
			gone = append(gone, f)
		}
	}
	var drop []string
	for i := range r.leases {
		if r.orphaned(&r.leases[i]) {
			drop = append(drop, r.leases[i].id)
		}
	}
	start := r.m.eventStart()
	if err := r.repairLeases(ctx, drop); err != nil {
		return err
	}
	if err := r.collectLost(ctx); err != nil {
		return err
	}
	if len(gone) == 0 && len(r.clear) == 0 && len(r.lost.again) == 0 {
		return nil
	}
	err := r.m.store.Write(func(w *metadata.Writer) error {
		for _, f := range r.clear {
			row, err := w.Row(f.meta.ID)
			if err != nil {
				return err
			}
			if err := row.Clear(keyEqualMutable); err != nil {
				return err
			}
		}
		for _, f := range gone {
			if err := w.Remove(f.meta.ID); err != nil {
				return err
			}
		}
		return r.writeAgain(w)
	})
	if err != nil {
		return err
	}
	r.report(gone, start)
	r.reportLost(start)
	return nil
}

// repairLeases makes the missing leases and deletes the superfluous ones. What a lease protects is
// leased before anything lets it go.
func (r *recovery) repairLeases(ctx context.Context, drop []string) error {
	if len(drop) == 0 && len(r.unleased) == 0 && len(r.lost.again) == 0 {
		return nil
	}
	return r.m.transact(ctx, func(ctx context.Context) error {
		for _, f := range r.unleased {
			l := r.m.recordLease(f.meta.ID, f.meta.SnapshotID, f.meta.Blob)
			if err := r.m.remakeLease(ctx, l, false); err != nil {
				return err
			}
		}
		if err := r.leaseAgain(ctx); err != nil {
			return err
		}
		return r.m.deleteLeases(ctx, drop...)
	})
}

func (r *recovery) report(gone []*found, start time.Time) {
	for _, f := range r.clear {
		f.equalMutable, f.mut = "", nil
		r.m.observe(Event{Kind: EventRecover, ID: f.meta.ID, Reason: ReasonFinalized}, start)
	}
	for _, f := range gone {
		reason := ReasonBroken
		switch {
		case f.deleted:
			reason = ReasonDeleted
		case r.lost.ids[f.meta.ID]:
			reason = ReasonUnsynced
		}
		r.m.observe(Event{Kind: EventRecover, ID: f.meta.ID, Reason: reason}, start)
	}
}

// orphaned tells whether a lease is to go: it belongs to a row that goes, or says that it is
// this store's while its record is unknown, or while it was temporary. Everybody else's leases are left alone.
func (r *recovery) orphaned(l *foundLease) bool {
	f := r.byID[l.id]
	if f != nil && f.verdict == bad {
		return true
	}
	if id := trimSuffixes(l.id); id != l.id && r.byID[id] != nil && r.byID[id].verdict == bad {
		return true
	}
	switch {
	case !l.own:
		return false
	case l.temporary:
		return true // of a process that died, since nobody else has the store open
	case l.record != l.id:
		f = r.byID[l.record]
	}
	return f == nil || f.verdict == bad
}

func trimSuffixes(id string) string {
	for _, suffix := range []string{viewSuffix, variantsSuffix} {
		if n := len(id) - len(suffix); n > 0 && id[n:] == suffix {
			return id[:n]
		}
	}
	return id
}

// publish puts a sound record, and its ancestors before it, into the graph. A mutable row with an
// immutable half is put in with that (spec INIT-6); no link made here counts as a use (spec INIT-8).
func (r *recovery) publish(f *found) {
	if f.verdict == unusable {
		log.L.WithField("record", f.meta.ID).Warn("layer cache: the record contradicts itself and is left alone")
	}
	stack := append(r.stack[:0], f)
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		if at.rec != nil || at.verdict != sound {
			stack = stack[:len(stack)-1]
			continue
		}
		waiting := false
		for _, p := range at.below {
			if p != nil && p.rec == nil {
				stack = append(stack, p)
				waiting = true
			}
		}
		if waiting {
			continue
		}
		r.insert(at)
		stack = stack[:len(stack)-1]
	}
	r.stack = stack
}

func (r *recovery) insert(f *found) {
	spec := graph.Spec{Kind: f.kind(), State: graph.Ready}
	switch len(f.below) {
	case 0:
	case 1:
		spec.Parents = r.parent[:0] // the room has a place for it
	default:
		spec.Parents = make([]*graph.Record, 0, len(f.below))
	}
	for _, p := range f.below {
		var rec *graph.Record // nil for a diff without lower or upper
		if p != nil {
			rec = p.rec
			r.m.g.Link(rec, p.meta.ID)
		}
		spec.Parents = append(spec.Parents, rec)
	}
	mut, imm := f, f
	switch {
	case f.mutable():
		if imm = f.half; imm != nil && (imm.verdict != sound || imm.equalMutable == "") {
			imm = nil
		}
	case f.mut != nil:
		mut = f.mut
	default:
		mut = nil
	}
	if mut != nil {
		spec.Mut, spec.Room, spec.State = mut.meta, mut.room, graph.Active
	}
	if imm != nil {
		spec.Imm, spec.Room = imm.meta, imm.room // the name that stays
		spec.StrayLease = mut != nil && imm.leased
		if mut != nil {
			spec.State = graph.Sealed
		} else if lazyKind(&imm.row) {
			spec.State = graph.Lazy
		}
	}
	rec, ok := r.m.g.Insert(spec)
	if !ok {
		return // cannot be: IDs are keys of the database
	}
	if mut != nil {
		mut.rec = rec
	}
	if imm != nil {
		imm.rec = rec
	}
}

// lazyKind tells whether a finalized record's snapshot may be absent: the recipe will do.
func lazyKind(row *row) bool {
	return row.kind().Derived() || (row.meta.Blob != nil && row.meta.Blob.Only)
}
