package cache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// How Check stays free of false alarms while the cache is in use: the first look takes everything in
// bulk, one source after the other, and only yields suspects. Each suspect is then looked at again, and
// everything about it is read anew, where no operation can be half way through it:
//
//	a record in memory     in its slot, and in the slots of its names' setters. Only a prune
//	                       condemns records outside of their slots; that changes the generation, and then
//	                       nothing is said about the record
//	a row or lease whose   under the claim of its name (see claimName), after which memory is asked first
//	record is unknown      and the disk second. Condemned records are known until nothing of them is left
//	any other lease        in its record's slot
//	use counts             memory is ahead of the row by what is written behind. So the row is read first
//	                       and memory second, and only a row that is ahead of memory is wrong
//	the index              written with the values in one transaction, and read in one

// check is one run of Check or Repair.
type check struct {
	m *manager
	// seen is what the first look saw of rows, leases and snapshots.
	seen *evidence
	// unsound remembers what contradictory found out.
	unsound map[string]bool
	// parents are the rows that a row of seen, other than one that is to go, names as its parent.
	parents map[string]bool
	found   []Finding
}

func (m *manager) Check(ctx context.Context) ([]Finding, error) {
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "checking the cache")
	}
	defer m.life.end()
	c, err := m.newCheck(ctx)
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		return nil, errors.Wrap(err, "checking the cache")
	}
	return c.found, nil
}

// newCheck takes the first look at rows, leases and snapshots.
func (m *manager) newCheck(ctx context.Context) (*check, error) {
	c := &check{m: m, seen: newEvidence(m), unsound: map[string]bool{}, parents: map[string]bool{}}
	if err := c.seen.readAll(ctx); err != nil {
		return nil, err
	}
	for id, row := range c.seen.rows {
		if row.deleted && m.g.Lookup(id) == nil {
			continue // it goes, too
		}
		for _, p := range row.parents() {
			c.parents[p] = true
		}
	}
	return c, nil
}

func (c *check) run(ctx context.Context) error {
	keep := func(_ context.Context, faults []fault) error {
		for _, f := range faults {
			c.found = append(c.found, f.Finding)
		}
		return nil
	}
	var suspects []*graph.Record
	for _, in := range c.m.g.InspectAll() {
		faults, err := c.m.judge(ctx, in, c.seen)
		if err != nil {
			return err
		}
		if len(faults) > 0 {
			suspects = append(suspects, in.Record)
		}
	}
	for _, rec := range suspects {
		if err := c.m.recheckRecord(ctx, rec, keep); err != nil {
			return err
		}
	}
	for id := range c.seen.rows {
		if err := c.recheckRow(ctx, id, keep); err != nil {
			return err
		}
	}
	for id, l := range c.seen.leases {
		if c.m.suspectLease(l) == "" {
			continue
		}
		if err := c.m.recheckLease(ctx, id, keep); err != nil {
			return err
		}
	}
	if err := c.indexes(ctx); err != nil {
		return err
	}
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Record, b.Record),
			strings.Compare(a.Subject, b.Subject))
	})
	return nil
}

// act gets the faults of what was looked at again, while it is locked.
type act func(ctx context.Context, faults []fault) error

// recheckRecord looks at a record in memory while nothing else works on it.
func (m *manager) recheckRecord(ctx context.Context, rec *graph.Record, do act) error {
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return err
	}
	defer leave()
	in := m.g.Inspect(rec) // in its slot its names stay, unless it is condemned
	for _, half := range halvesOf(in) {
		leave, err := m.metaSlots.Enter(ctx, half.ID)
		if err != nil {
			return err
		}
		defer leave()
	}
	if in = m.g.Inspect(rec); !in.Alive() {
		return nil
	}
	faults, err := m.judge(ctx, in, newEvidence(m))
	if err != nil {
		return err
	}
	if m.g.Inspect(rec).Gen != in.Gen || len(faults) == 0 {
		return nil
	}
	return do(ctx, faults)
}

// recheckRow looks at a row whose record memory does not know.
func (c *check) recheckRow(ctx context.Context, id string, do act) error {
	m := c.m
	if m.g.Lookup(id) != nil {
		return nil
	}
	release, err := m.nameSlots.Enter(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if m.g.Lookup(id) != nil || m.unfinished.underWay(id) {
		return nil
	}
	e := newEvidence(m)
	row, err := e.row(id)
	if err != nil || row == nil {
		return err
	}
	f, err := c.judgeUnknown(ctx, row, e)
	if err != nil {
		return err
	}
	return do(ctx, []fault{f})
}

// suspectLease says what may be wrong with a lease by its labels alone, and "" for leases of others and those that
// the record's own check is about.
func (m *manager) suspectLease(l *leases.Lease) FindingKind {
	if l.Labels[labelStore] != m.storeID {
		return ""
	}
	owner := l.Labels[labelRecord]
	if m.g.Lookup(owner) == nil {
		return FindingLeaseOrphaned
	}
	switch l.ID {
	case owner, owner + viewSuffix, owner + variantsSuffix:
		return ""
	}
	if m.work.has(l.ID) {
		return ""
	}
	if _, temporary := l.Labels[labelTemporary]; temporary {
		return FindingLeaseTemporary
	}
	return FindingLeaseUnknown
}

// recheckLease looks at a lease of this store that no record in memory needs.
func (m *manager) recheckLease(ctx context.Context, id string, do act) error {
	e := newEvidence(m)
	l, err := e.lease(ctx, id)
	if err != nil || l == nil {
		return err
	}
	owner, kind := l.Labels[labelRecord], m.suspectLease(l)
	var leave func()
	if rec := m.g.Lookup(owner); rec != nil {
		leave, err = m.enter(ctx, rec) // a repair uses a temporary lease
	} else {
		leave, err = m.nameSlots.Enter(ctx, owner)
	}
	if err != nil {
		return err
	}
	defer leave()
	if rec := m.g.Lookup(owner); rec != nil {
		if in := m.g.Inspect(rec); !in.Alive() {
			return nil // its leases go along with it
		}
	}
	if kind == "" || m.suspectLease(l) != kind || m.unfinished.underWay(id) {
		return nil
	}
	e = newEvidence(m) // what was there a moment ago may be gone, now that nothing is under way
	if l, err = e.lease(ctx, id); err != nil || l == nil {
		return err
	}
	f := fault{Finding: Finding{Kind: kind, Record: owner, Subject: id, Repair: RepairDeleteLease}}
	f.fix = m.undoLease(id)
	switch kind {
	case FindingLeaseOrphaned:
		row, err := e.row(owner)
		if err != nil || row != nil {
			return err // the finding is about the row
		}
		f.Text = fmt.Sprintf("lease %q of this store belongs to record %q, which does not exist", id, owner)
	case FindingLeaseTemporary:
		f.Text = fmt.Sprintf("temporary lease %q of record %q is left", id, owner)
	default:
		f.Text = fmt.Sprintf("lease %q is none of those that record %q has", id, owner)
		f.Repair, f.fix = RepairNone, nil
	}
	return do(ctx, []fault{f})
}

// indexes adds what is wrong with the index.
func (c *check) indexes(ctx context.Context) error {
	faults, err := c.m.store.CheckIndexes(ctx)
	if err != nil {
		return errors.Wrap(err, "comparing the index with the records")
	}
	for _, f := range faults {
		c.found = append(c.found, indexFinding(f))
	}
	return nil
}

func indexFinding(f metadata.IndexFault) Finding {
	found := Finding{Kind: FindingIndexOrphaned, Record: f.Record, Subject: f.Entry, Repair: RepairReindex}
	found.Text = fmt.Sprintf("no value of record %q has the index of entry %q", f.Record, f.Entry)
	if f.Missing {
		found.Kind = FindingIndexMissing
		found.Text = fmt.Sprintf("a value of record %q has an index without its entry %q", f.Record, f.Entry)
	}
	return found
}

// halvesOf returns the names that a record has.
func halvesOf(in graph.Inspection) []*graph.Meta {
	var out []*graph.Meta
	for _, m := range []*graph.Meta{in.Mut, in.Imm} {
		if m != nil {
			out = append(out, m)
		}
	}
	return out
}

// notFoundIsNil turns the definitive answer that something is not there into no error.
func notFoundIsNil(err error, format string, args ...any) error {
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	return errors.Wrapf(err, format, args...)
}
