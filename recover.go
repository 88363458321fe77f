package cache

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
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
	rows map[string]*row
	ids  []string // of all rows, in order
	// halves maps a mutable row's ID to the immutable row that names it as equalMutable.
	halves map[string]string
	// verdicts, by ID.
	verdicts map[string]verdict
	leases   []leases.Lease
	leased   map[string]bool
	clear    []string // immutable rows whose equalMutable is to be cleared
	unleased []*row   // sound rows whose lease is to be made anew
	lost     lostTrees
	built    map[string]*graph.Record
}

type verdict uint8

const (
	undecided verdict = iota
	judging           // on the stack: seen again, it is its own ancestor
	sound
	bad      // to be removed: definitively, not by a failure to look
	unusable // contradicts itself: left alone on disk, and not loaded
)

// recover loads every record and repairs what a crash left (spec section 7). It writes nothing where there is
// nothing to repair, lists the leases once, and asks the snapshotter about mutable records only.
func (m *manager) recover(ctx context.Context) error {
	r := &recovery{
		m: m, rows: map[string]*row{}, halves: map[string]string{},
	}
	if err := r.read(ctx); err != nil {
		return err
	}
	r.verdicts = make(map[string]verdict, len(r.rows))
	r.built = make(map[string]*graph.Record, len(r.rows))
	ids := r.ids
	for _, id := range ids {
		if _, err := r.judge(ctx, id); err != nil {
			return errors.Wrapf(err, "loading record %q", id)
		}
	}
	if err := r.repair(ctx, ids); err != nil {
		return errors.Wrap(err, "repairing what an earlier process left")
	}
	for _, id := range ids {
		r.publish(id)
	}
	r.keepMarks()
	return nil
}

func (r *recovery) read(ctx context.Context) error {
	interned := map[string]string{}
	err := r.m.store.Scan(func(id []byte, view metadata.RowView) error {
		name := string(id)
		row, err := readRow(name, view, interned)
		if err != nil {
			return errors.Wrapf(err, "reading record %q", name)
		}
		r.rows[name] = row
		r.ids = append(r.ids, name)
		return nil
	})
	if err != nil {
		return errors.Wrap(err, "reading the records")
	}
	for id, row := range r.rows {
		if row.equalMutable == "" || row.mutable() || row.deleted {
			continue
		}
		// A Commit whose roll-back failed may have left a half beside the one that counts.
		other := r.rows[r.halves[row.equalMutable]]
		if other == nil || row.beats(other) {
			r.halves[row.equalMutable] = id
		}
	}
	r.findLost()
	if r.leases, err = r.m.opt.LeaseManager.List(ctx); err != nil {
		return errors.Wrap(err, "listing leases")
	}
	r.leased = make(map[string]bool, len(r.leases))
	for _, l := range r.leases {
		r.leased[l.ID] = true
	}
	for _, l := range r.leases {
		if owner := l.Labels[labelRecord]; l.ID == owner+repairSuffix && l.Labels[labelStore] == r.m.storeID {
			r.leased[owner] = false // it may list nothing yet
		}
	}
	return nil
}

// beats tells which of two halves of one record counts: one that somebody asked to retain, else the newer.
func (r *row) beats(other *row) bool {
	if r.meta.Retain != other.meta.Retain {
		return r.meta.Retain
	}
	if r.meta.CreatedAt != other.meta.CreatedAt {
		return r.meta.CreatedAt > other.meta.CreatedAt
	}
	return r.meta.ID > other.meta.ID
}

// judge decides what is to become of a row, its parents first (spec INIT-1, INIT-2). An error of
// the backend is the result only if it keeps the answer from being known. Chains may be tens of thousands
// of records long, so the stack is explicit.
func (r *recovery) judge(ctx context.Context, id string) (verdict, error) {
	stack := []string{id}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		if v := r.verdicts[at]; v != undecided && v != judging {
			stack = stack[:len(stack)-1]
			continue
		}
		row := r.rows[at]
		if row == nil {
			r.verdicts[at] = bad // names a row that is not there
			continue
		}
		r.verdicts[at] = judging
		waiting := false
		for _, need := range needsOf(row) {
			switch r.verdicts[need] {
			case undecided:
				stack = append(stack, need)
				waiting = true
			case judging:
				r.verdicts[need] = unusable // everything being judged lies below on the stack: a cycle
			case sound, bad, unusable:
			}
		}
		if waiting {
			continue
		}
		v, err := r.conclude(ctx, row)
		if err != nil {
			return undecided, err
		}
		if r.verdicts[at] != unusable {
			r.verdicts[at] = v
		}
		stack = stack[:len(stack)-1]
	}
	return r.verdicts[id], nil
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
func (r *recovery) conclude(ctx context.Context, row *row) (verdict, error) {
	if row.deleted {
		return bad, nil // its deletion is to be finished
	}
	for _, p := range row.parents() {
		if p == "" {
			continue
		}
		if v := r.verdicts[p]; v == bad || v == unusable {
			r.lostWith(row, p)
			return v, nil
		}
		if r.rows[p].mutable() {
			return unusable, nil // nothing can lie on what may still be written to
		}
	}
	switch {
	case r.isLost(row):
		return r.concludeLost(ctx, row)
	case row.mutable():
		return r.concludeMutable(ctx, row)
	case row.equalMutable != "":
		return r.concludeHalf(ctx, row)
	case r.leased[row.meta.ID]:
		return sound, nil
	}
	return r.concludeUnleased(ctx, row)
}

// concludeUnleased judges a finalized row whose lease is gone: while there is anything left of it, the
// lease is made anew (spec INIT-10).
func (r *recovery) concludeUnleased(ctx context.Context, row *row) (verdict, error) {
	exists, err := r.m.snapshotExists(ctx, row.meta.SnapshotID)
	if err != nil {
		return bad, err
	}
	if b := row.meta.Blob; !exists && b != nil && isDigest(b.Digest) {
		if exists, err = r.m.blobLocal(ctx, digest.Digest(b.Digest)); err != nil {
			return bad, err
		}
	}
	if !exists && !lazyKind(row) {
		return bad, nil
	}
	r.unleased = append(r.unleased, row)
	return sound, nil
}

// concludeMutable judges a mutable row. One that nobody asked to keep was in use when its
// process died, and goes (spec INIT-12).
func (r *recovery) concludeMutable(ctx context.Context, row *row) (verdict, error) {
	exists, err := r.m.snapshotExists(ctx, row.meta.SnapshotID)
	if err != nil || !exists {
		return bad, err
	}
	half := r.rows[r.halves[row.meta.ID]]
	if !row.meta.Retain && (half == nil || !half.meta.Retain) {
		return bad, nil
	}
	if !r.leased[row.meta.ID] {
		r.unleased = append(r.unleased, row)
	}
	return sound, nil
}

// concludeHalf judges an immutable row that names a mutable one (spec INIT-5, INIT-6).
func (r *recovery) concludeHalf(ctx context.Context, row *row) (verdict, error) {
	if r.verdicts[row.equalMutable] == sound && r.halves[row.equalMutable] == row.meta.ID {
		if r.rows[row.equalMutable].mutable() {
			return sound, nil
		}
		return unusable, nil
	}
	if r.verdicts[row.equalMutable] == unusable {
		return unusable, nil
	}
	exists, err := r.m.snapshotExists(ctx, row.meta.SnapshotID)
	if err != nil || !exists {
		return bad, err
	}
	r.clear = append(r.clear, row.meta.ID)
	if !r.leased[row.meta.ID] {
		r.unleased = append(r.unleased, row)
	}
	return sound, nil
}

// repair finishes deletions, removes what is definitively bad, ends half-done finalizations, and
// deletes the leases of this store that have no record (spec INIT-11). Leases go before rows,
// so that a crash in between is repaired by the next start in the same way.
func (r *recovery) repair(ctx context.Context, ids []string) error {
	var gone []string
	dead := map[string]bool{}
	for _, id := range ids {
		if r.verdicts[id] == bad {
			gone = append(gone, id)
			dead[id] = true
		}
	}
	var drop []string
	for _, l := range r.leases {
		if r.orphaned(l, dead) {
			drop = append(drop, l.ID)
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
		for _, id := range r.clear {
			row, err := w.Row(id)
			if err != nil {
				return err
			}
			if err := row.Clear(keyEqualMutable); err != nil {
				return err
			}
		}
		for _, id := range gone {
			if err := w.Remove(id); err != nil {
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
		for _, row := range r.unleased {
			l := r.m.recordLease(row.meta.ID, row.meta.SnapshotID, row.meta.Blob)
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

func (r *recovery) report(gone []string, start time.Time) {
	for _, id := range r.clear {
		r.rows[id].equalMutable = ""
		r.m.observe(Event{Kind: EventRecover, ID: id, Reason: "finalized"}, start)
	}
	for _, id := range gone {
		reason := "broken"
		switch {
		case r.rows[id].deleted:
			reason = "deleted"
		case r.lost.ids[id]:
			reason = reasonUnsynced
		}
		r.m.observe(Event{Kind: EventRecover, ID: id, Reason: reason}, start)
	}
}

// orphaned tells whether a lease is to go: it belongs to a row that goes, or says that it is
// this store's while its record is unknown, or while it was temporary. Everybody else's leases are left alone.
func (r *recovery) orphaned(l leases.Lease, dead map[string]bool) bool {
	if dead[l.ID] || dead[trimSuffixes(l.ID)] {
		return true
	}
	if l.Labels[labelStore] != r.m.storeID {
		return false
	}
	if _, temporary := l.Labels[labelTemporary]; temporary {
		return true // of a process that died, since nobody else has the store open
	}
	owner := l.Labels[labelRecord]
	return r.rows[owner] == nil || dead[owner]
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
func (r *recovery) publish(id string) {
	stack := []string{id}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		if r.built[at] != nil || r.verdicts[at] != sound {
			if r.verdicts[at] == unusable && at == id {
				log.L.WithField("record", id).Warn("layer cache: the record contradicts itself and is left alone")
			}
			stack = stack[:len(stack)-1]
			continue
		}
		row := r.rows[at]
		waiting := false
		for _, p := range row.parents() {
			if p != "" && r.built[p] == nil {
				stack = append(stack, p)
				waiting = true
			}
		}
		if waiting {
			continue
		}
		r.insert(row)
		stack = stack[:len(stack)-1]
	}
}

func (r *recovery) insert(row *row) {
	spec := graph.Spec{Kind: row.kind(), State: graph.Ready}
	for _, p := range row.parents() {
		rec := r.built[p] // nil for a diff without lower or upper
		if rec != nil {
			r.m.g.Link(rec, p)
		}
		spec.Parents = append(spec.Parents, rec)
	}
	mut, imm := row, row
	switch {
	case row.mutable():
		if imm = r.rows[r.halves[row.meta.ID]]; imm != nil && (r.verdicts[imm.meta.ID] != sound || imm.equalMutable == "") {
			imm = nil
		}
	case row.equalMutable != "":
		mut = r.rows[row.equalMutable]
	default:
		mut = nil
	}
	if mut != nil {
		spec.Mut, spec.State = &mut.meta, graph.Active
	}
	if imm != nil {
		spec.Imm = &imm.meta
		spec.StrayLease = mut != nil && r.leased[imm.meta.ID]
		if mut != nil {
			spec.State = graph.Sealed
		} else if lazyKind(imm) {
			spec.State = graph.Lazy
		}
	}
	rec, ok := r.m.g.Insert(spec)
	if !ok {
		return // cannot be: IDs are keys of the database
	}
	for _, half := range []*graph.Meta{spec.Mut, spec.Imm} {
		if half != nil {
			r.built[half.ID] = rec
		}
	}
}

// lazyKind tells whether a finalized record's snapshot may be absent: the recipe will do.
func lazyKind(row *row) bool {
	return row.kind().Derived() || (row.meta.Blob != nil && row.meta.Blob.Only)
}
