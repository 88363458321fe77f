package cache

import (
	"context"
	"time"

	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/metadata"
)

// lostTrees is what a start finds of trees that were not on disk when the machine went down. Their snapshots
// exist, with anything in them, and must not be used by whoever finds them by name.
type lostTrees struct {
	// snapshots are the names of snapshots that rows of an earlier boot say it of.
	snapshots map[string]bool
	// ids are the records that are lost: by their own mark, by sharing a snapshot, or by lying on one.
	ids map[string]bool
	// again are those of them that have a recipe, and names what their snapshots are to be called from now
	// on. The new name cannot be taken, so what is found under it is what was made anew.
	again []*found
	names map[string]string
}

// findLost looks for marks of other boots. Without them nothing below does anything.
func (r *recovery) findLost() {
	for _, row := range r.rows {
		if row.unsynced == "" || r.m.bootID == "" || row.unsynced == r.m.bootID || row.deleted {
			continue
		}
		if r.lost.snapshots == nil {
			r.lost.snapshots, r.lost.ids, r.lost.names = map[string]bool{}, map[string]bool{}, map[string]string{}
		}
		r.lost.snapshots[row.meta.SnapshotID] = true
	}
}

// isLost tells whether a row's tree is lost, and notes it. Its parents have been judged.
func (r *recovery) isLost(f *found) bool {
	if r.lost.snapshots == nil {
		return false
	}
	lost := r.lost.snapshots[f.meta.SnapshotID]
	for _, need := range needsOf(&f.row) {
		lost = lost || r.lost.ids[need]
	}
	if lost {
		r.lost.ids[f.meta.ID] = true
	}
	return lost
}

// lostWith notes why a row goes along with a parent.
func (r *recovery) lostWith(f, parent *found) {
	if r.lost.ids[parent.meta.ID] {
		r.lost.ids[f.meta.ID] = true
	}
}

// concludeLost judges a row whose tree is lost: with a recipe it becomes lazy, else it is bad.
func (r *recovery) concludeLost(ctx context.Context, row *found) (verdict, error) {
	if row.mutable() || row.equalMutable != "" {
		return bad, nil
	}
	if !row.kind().Derived() {
		b := row.meta.Blob
		if b == nil || !isDigest(b.Digest) {
			return bad, nil
		}
		if !b.Only { // else somebody may know where to get it
			if local, err := r.m.blobLocal(ctx, digest.Digest(b.Digest)); err != nil || !local {
				return bad, err
			}
		}
	}
	if old := row.meta.SnapshotID; r.lost.names[old] == "" {
		r.lost.names[old] = newID()
	}
	r.lost.again = append(r.lost.again, row)
	return sound, nil
}

// leaseAgain has the leases of records that become lazy list the new snapshot in place of the lost one, which
// goes with the next garbage collection. A crash before the rows follow has the next start do all of it once more.
func (r *recovery) leaseAgain(ctx context.Context) error {
	for _, row := range r.lost.again {
		l := r.m.recordLease(row.meta.ID, r.lost.names[row.meta.SnapshotID], row.meta.Blob)
		if err := r.m.remakeLease(ctx, l, true); err != nil {
			return err
		}
	}
	return nil
}

// collectLost has the lost snapshots removed, as far as the backend can be asked to, while the rows still say that they
// are lost: one of a dropped record may be named by its chain ID, by which the next pull would find it.
func (r *recovery) collectLost(ctx context.Context) error {
	if len(r.lost.ids) == 0 || r.m.opt.GarbageCollect == nil {
		return nil
	}
	_, err := r.m.opt.GarbageCollect(ctx)
	return errors.Wrap(err, "collecting what was not on disk")
}

// writeAgain stores that records are lazy.
func (r *recovery) writeAgain(w *metadata.Writer) error {
	for _, lost := range r.lost.again {
		row, err := w.Row(lost.meta.ID)
		if err != nil {
			return err
		}
		values := []kv{{keySnapshot, r.lost.names[lost.meta.SnapshotID]}, {keySize, sizeUnknown}}
		if lost.meta.Blob != nil && !lost.kind().Derived() {
			values = append(values, kv{keyBlobOnly, true})
		}
		if err := setAll(row, values); err != nil {
			return err
		}
		if err := row.Clear(keyUnsynced); err != nil {
			return err
		}
	}
	return nil
}

// reportLost brings the typed rows in line with what writeAgain has stored, and tells of everything that was lost.
func (r *recovery) reportLost(start time.Time) {
	if len(r.lost.ids) == 0 {
		return
	}
	for _, row := range r.lost.again {
		row.meta.SnapshotID, row.meta.Size, row.unsynced = r.lost.names[row.meta.SnapshotID], sizeUnknown, ""
		if b := row.meta.Blob; b != nil && !row.kind().Derived() {
			blob := *b
			blob.Only = true
			row.meta.Blob = &blob
		}
		r.m.observe(Event{Kind: EventRecover, ID: row.meta.ID, Reason: ReasonAgain}, start)
	}
	dropped := 0
	for id := range r.lost.ids {
		if r.byID[id].verdict == bad {
			dropped++
		}
	}
	log.L.WithField("dropped", dropped).WithField("lazy", len(r.lost.again)).
		Warn("layer cache: the machine went down before records were on disk; they are dropped, or extracted again")
}

// keepMarks takes over the marks of rows that are loaded, so that they are taken off one day, and not before.
func (r *recovery) keepMarks() {
	for _, f := range r.rows {
		if f.rec != nil {
			r.m.noteMark(f.rec, f.meta.ID, f.unsynced)
		}
	}
}
