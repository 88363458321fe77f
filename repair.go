package cache

import (
	"context"
	stderrors "errors"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
)

// kindsOfFindings lists all kinds, and of which sort their subjects are.
var kindsOfFindings = map[FindingKind]struct{ lease, index bool }{
	FindingRowMissing: {}, FindingRowUnknown: {}, FindingRowDiffers: {}, FindingRowContradicts: {}, FindingParentMissing: {},
	FindingMarkedDeleted: {}, FindingHalfFinalized: {}, FindingTwoHalves: {},
	FindingLeaseMissing: {}, FindingLeaseIncomplete: {}, FindingLeaseNotFlat: {}, FindingLeaseUnneeded: {},
	FindingViewLeaseStale: {}, FindingVariantsUnleased: {},
	FindingLeaseOrphaned: {lease: true}, FindingLeaseUnknown: {lease: true}, FindingLeaseTemporary: {lease: true},
	FindingSnapshotMissing: {}, FindingSnapshotKind: {}, FindingSnapshotParent: {}, FindingBlobMissing: {},
	FindingIndexMissing: {index: true}, FindingIndexOrphaned: {index: true},
}

func (m *manager) Repair(ctx context.Context, findings ...Finding) ([]Finding, error) {
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "repairing the cache")
	}
	defer m.life.end()
	for _, f := range findings {
		if _, ok := kindsOfFindings[f.Kind]; !ok {
			return nil, errors.Wrapf(errInvalid, "repairing the cache: unknown kind of finding %q", f.Kind)
		}
	}
	repairs := &repairs{m: m, done: map[Finding]bool{}}
	var errs []error
	for _, f := range findings {
		if f.Repair == RepairNone {
			continue
		}
		if err := repairs.one(ctx, f); err != nil {
			errs = append(errs, errors.Wrapf(err, "repairing the cache: %s", f))
		}
	}
	if err := repairs.reindex(ctx); err != nil {
		errs = append(errs, errors.Wrap(err, "repairing the index"))
	}
	var done []Finding
	for _, f := range findings {
		if repairs.done[f] {
			done = append(done, f)
		}
	}
	return done, stderrors.Join(errs...)
}

// repairs is one run of Repair.
type repairs struct {
	m *manager
	// c has looked at the rows, which is done when it is needed first.
	c       *check
	entries []Finding
	done    map[Finding]bool
}

// one looks at the subject of a finding again and, if it is as the finding says, repairs it.
func (r *repairs) one(ctx context.Context, f Finding) error {
	fix := func(ctx context.Context, faults []fault) error {
		for _, found := range faults {
			if found.same(f) && found.fix != nil && !r.done[f] {
				// Half a repair is worse than a late one.
				if err := found.fix(context.WithoutCancel(ctx)); err != nil {
					return err
				}
				r.done[f] = true
			}
		}
		return nil
	}
	kind := kindsOfFindings[f.Kind]
	if kind.index {
		r.entries = append(r.entries, f)
		return nil
	}
	if kind.lease {
		return r.m.recheckLease(ctx, f.Subject, fix)
	}
	if rec := r.m.g.Lookup(f.Record); rec != nil {
		return r.m.repairRecord(ctx, rec, fix)
	}
	if r.c == nil {
		c, err := r.m.newCheck(ctx)
		if err != nil {
			return err
		}
		r.c = c
	}
	return r.c.recheckRow(ctx, f.Record, fix)
}

// repairRecord is recheckRecord with the record kept from being pruned meanwhile.
func (m *manager) repairRecord(ctx context.Context, rec *graph.Record, fix act) error {
	if !m.g.Pin(rec) {
		return nil // it is being deleted
	}
	defer m.unlink(ctx, rec) // after the slot was left
	return m.recheckRecord(ctx, rec, fix)
}

// reindex repairs the index entries that were asked for, all in one transaction.
func (r *repairs) reindex(ctx context.Context) error {
	var entries []string
	for _, f := range r.entries {
		entries = append(entries, f.Subject)
	}
	repaired, err := r.m.store.RepairIndexes(ctx, entries...)
	if err != nil {
		return err
	}
	for _, fault := range repaired {
		for _, f := range r.entries {
			if indexFinding(fault).same(f) {
				r.done[f] = true
			}
		}
	}
	return nil
}
