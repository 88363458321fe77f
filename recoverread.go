package cache

import (
	"context"
	"strings"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// found is a row as a start finds it, and what becomes of it. Rows refer to each other directly, and none of
// this outlives the start but the room.
type found struct {
	row
	// room has meta, and from insert on the record.
	room *graph.Room
	// below are the rows that parents() names, in order: nil where it names none, recovery.missing where there is no such row.
	below []*found
	one   [1]*found // is what below needs as a rule
	// mut is the row that equalMutable names, in the same way.
	mut *found
	// half is, of a mutable row, the immutable one that names it as equalMutable.
	half    *found
	verdict verdict
	leased  bool
	// rec is the record, once it is in the graph.
	rec *graph.Record
}

type verdict uint8

const (
	undecided verdict = iota
	judging           // on the stack: seen again, it is its own ancestor
	sound
	bad      // to be removed: definitively, not by a failure to look
	unusable // contradicts itself: left alone on disk, and not loaded
)

// read reads the rows, lists the leases, and relates one to the other. The two databases know nothing of each other, so
// both are read at the same time.
func (r *recovery) read(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.readRows(ctx); err != nil {
			cancel(errors.Wrap(err, "reading the records"))
		}
	}()
	func() {
		defer func() { <-done }() // also if somebody's lease manager panics
		if err := r.readLeases(ctx); err != nil {
			cancel(errors.Wrap(err, "listing leases"))
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.relate()
	r.findLost()
	r.findLeased()
	return nil
}

// readRows reads all rows in one transaction.
func (r *recovery) readRows(ctx context.Context) error {
	const block, lookEvery = 256, 256
	var free []found
	reader := newRowReader()
	return r.m.store.Scan(func(id []byte, view metadata.RowView) error {
		if len(r.rows)%lookEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if len(free) == 0 {
			free = make([]found, block)
		}
		f := &free[0]
		free = free[1:]
		f.room = &graph.Room{}
		f.meta = &f.room.Meta
		if err := reader.read(&f.row, id, view); err != nil {
			return errors.Wrapf(err, "reading record %q", id)
		}
		r.rows = append(r.rows, f)
		return nil
	})
}

// relate has the rows refer to those they name.
func (r *recovery) relate() {
	r.byID = make(map[string]*found, len(r.rows))
	for _, f := range r.rows {
		r.byID[f.meta.ID] = f
	}
	for _, f := range r.rows {
		if f.parent != "" && f.kind() == graph.Layer { // as parents says, without the list
			f.one[0] = r.named(f.parent)
			f.below = f.one[:]
		} else {
			for _, id := range f.parents() {
				f.below = append(f.below, r.named(id))
			}
		}
		f.mut = r.named(f.equalMutable)
		if f.mut == nil || f.mut == r.missing || f.mutable() || f.deleted {
			continue
		}
		// A Commit whose roll-back failed may have left a half beside the one that counts.
		if other := f.mut.half; other == nil || f.beats(&other.row) {
			f.mut.half = f
		}
	}
}

// named finds what a row names: nil if nothing, missing if it is not there.
func (r *recovery) named(id string) *found {
	if id == "" {
		return nil
	}
	if f := r.byID[id]; f != nil {
		return f
	}
	return r.missing
}

// foundLease is what a start has to know of a lease.
type foundLease struct {
	id string
	// record is the record it is of, if it is this store's own.
	record         string
	own, temporary bool
}

// leaseWalker is a lease manager that shows leases without making a list of them, which for a million would be half of a
// start's garbage. The labels are fn's during the call only.
type leaseWalker interface {
	WalkLeases(ctx context.Context, fn func(id string, labels map[string]string) error) error
}

// readLeases looks at all leases once.
func (r *recovery) readLeases(ctx context.Context) error {
	if w, ok := r.m.opt.LeaseManager.(leaseWalker); ok {
		return w.WalkLeases(ctx, func(id string, labels map[string]string) error {
			r.addLease(id, labels)
			return nil
		})
	}
	list, err := r.m.opt.LeaseManager.List(ctx)
	for i := range list {
		r.addLease(list[i].ID, list[i].Labels)
	}
	return err
}

func (r *recovery) addLease(id string, labels map[string]string) {
	l := foundLease{id: id}
	if labels[labelStore] == r.m.storeID {
		_, l.temporary = labels[labelTemporary]
		l.own, l.record = true, labels[labelRecord]
	}
	r.leases = append(r.leases, l)
}

// findLeased notes which rows have their leases.
func (r *recovery) findLeased() {
	for i := range r.leases {
		if f := r.byID[r.leases[i].id]; f != nil {
			f.leased = true
		}
	}
	for i := range r.leases {
		l := &r.leases[i]
		owner, ok := strings.CutSuffix(l.id, repairSuffix)
		if ok && l.own && l.record == owner {
			if f := r.byID[owner]; f != nil {
				f.leased = false // it may list nothing yet
			}
		}
	}
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
