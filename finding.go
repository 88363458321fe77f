package cache

import "context"

// FindingKind says what is wrong.
type FindingKind string

// The kinds of findings. Behind each stands what follows from it and what Repair does about it.
const (
	// FindingRowMissing: a record in memory has no row. It is gone after the next start. No repair:
	// what else the row held is not known.
	FindingRowMissing FindingKind = "row missing"
	// FindingRowUnknown: a row has no record in memory and nothing explains why. The next start may load
	// or remove it. If it is what a Commit that failed has left, without data of its own, it is removed.
	FindingRowUnknown FindingKind = "row unknown"
	// FindingRowDiffers: memory shows something else of a record than its row, which the next start will
	// go by. Use counts that are still to be written are no difference, and sizes are not compared. No repair.
	FindingRowDiffers FindingKind = "row differs"
	// FindingRowContradicts: a row is not loaded since it, or one it lies on, is its own ancestor,
	// lies on a mutable record, or names an immutable one as its mutable half. No repair.
	FindingRowContradicts FindingKind = "row contradicts itself"
	// FindingParentMissing: a row names a parent that has none. The next start removes the record. No repair.
	FindingParentMissing FindingKind = "parent missing"
	// FindingMarkedDeleted: a row is marked as deleted and its deletion is not under way. Of a record that
	// is in memory the mark is taken away; the deletion of any other is finished.
	FindingMarkedDeleted FindingKind = "marked as deleted"
	// FindingHalfFinalized: the snapshot of a committed record is committed, while its row still names a mutable
	// half. The finalization is finished.
	FindingHalfFinalized FindingKind = "half finalized"
	// FindingTwoHalves: besides the one in memory, another row claims to be the committed half of a mutable
	// record. One without a snapshot of its own is removed.
	FindingTwoHalves FindingKind = "two halves"

	// FindingLeaseMissing: a record, or the view it is mounted by, has no lease, so that the backend
	// may collect it. The lease is made anew.
	FindingLeaseMissing FindingKind = "lease missing"
	// FindingLeaseIncomplete: a record's lease does not list its snapshot or blob. It is completed.
	FindingLeaseIncomplete FindingKind = "lease incomplete"
	// FindingLeaseNotFlat: a record's lease lacks the label that keeps it from protecting whatever labels
	// refer to. It is made anew, while another lease protects what it lists.
	FindingLeaseNotFlat FindingKind = "lease not flat"
	// FindingLeaseUnneeded: a record that is not finalized has a lease for the snapshot it is to have one
	// day. It is deleted.
	FindingLeaseUnneeded FindingKind = "lease unneeded"
	// FindingLeaseOrphaned: a lease of this store has no record. It is deleted.
	FindingLeaseOrphaned FindingKind = "lease orphaned"
	// FindingLeaseUnknown: a lease of this store belongs to a record, but is none of those that a
	// record has. No repair: what it is for is not known.
	FindingLeaseUnknown FindingKind = "lease unknown"
	// FindingLeaseTemporary: a temporary lease of this store is left that no view needs. It is deleted.
	FindingLeaseTemporary FindingKind = "temporary lease left"
	// FindingViewLeaseStale: a record has a lease for a view that is not mounted. It is deleted.
	FindingViewLeaseStale FindingKind = "view lease stale"
	// FindingVariantsUnleased: a record's blob is linked to other compressions of the layer, and no lease
	// keeps them. They can be made again, so that only work is lost. The lease is made anew.
	FindingVariantsUnleased FindingKind = "variants unleased"

	// FindingSnapshotMissing: the snapshot of a record is gone. No repair.
	FindingSnapshotMissing FindingKind = "snapshot missing"
	// FindingSnapshotKind: a snapshot is committed where it should be writable, or the other way round. No repair.
	FindingSnapshotKind FindingKind = "wrong kind of snapshot"
	// FindingSnapshotParent: the snapshot of a layer that was built here does not lie on that of
	// the parent record. No repair.
	FindingSnapshotParent FindingKind = "wrong parent of snapshot"
	// FindingBlobMissing: the blob of a layer is gone, and the layer does not count as lazy. No repair.
	FindingBlobMissing FindingKind = "blob missing"

	// FindingIndexMissing: a value is not found by Search under the index stored with it. The entry is added.
	FindingIndexMissing FindingKind = "index entry missing"
	// FindingIndexOrphaned: Search finds a record under an index that none of its values has. The entry
	// is removed.
	FindingIndexOrphaned FindingKind = "index entry orphaned"
)

// RepairKind is what Repair does about a finding.
type RepairKind string

// The repairs. None of them removes data that anybody could still get at.
const (
	// RepairNone: there is no repair that is safe in every case.
	RepairNone RepairKind = ""
	// RepairCreateLease makes a lease that is missing.
	RepairCreateLease RepairKind = "create lease"
	// RepairCompleteLease adds what a lease should list.
	RepairCompleteLease RepairKind = "complete lease"
	// RepairRecreateLease makes a lease anew, with the labels it should have.
	RepairRecreateLease RepairKind = "recreate lease"
	// RepairDeleteLease deletes a lease that protects nothing anybody needs.
	RepairDeleteLease RepairKind = "delete lease"
	// RepairClearMark takes the mark of a deletion away.
	RepairClearMark RepairKind = "clear mark"
	// RepairFinishDeletion deletes the leases and then the row of a record that is marked as deleted.
	RepairFinishDeletion RepairKind = "finish deletion"
	// RepairFinishFinalize makes the rows say that a record is finalized.
	RepairFinishFinalize RepairKind = "finish finalization"
	// RepairRemoveRow removes a row without data.
	RepairRemoveRow RepairKind = "remove row"
	// RepairReindex makes an index entry agree with the values.
	RepairReindex RepairKind = "reindex"
)

// Finding is something that is not as it should be. Two findings about the same thing are equal.
type Finding struct {
	// Kind says what is wrong.
	Kind FindingKind
	// Record is the ID of the record or row it is about; empty if there is none.
	Record string
	// Subject is the ID of what is wrong: a row, a lease, a snapshot, a blob's digest, an index entry.
	Subject string
	// Text says it in a sentence, for people.
	Text string
	// Repair is what Repair would do; RepairNone if nothing.
	Repair RepairKind
}

// String returns the kind and the sentence.
func (f Finding) String() string { return string(f.Kind) + ": " + f.Text }

// same tells whether two findings are about the same thing and ask for the same.
func (f Finding) same(o Finding) bool {
	return f.Kind == o.Kind && f.Record == o.Record && f.Subject == o.Subject && f.Repair == o.Repair
}

// fault is a finding with its repair, which is to be called under the locks that it was found under.
type fault struct {
	Finding
	fix func(ctx context.Context) error
}

// Checker compares what a cache has in memory with what is stored.
type Checker interface {
	// Check compares the records in memory with their rows, the rows with each other and with
	// the index, and both with the leases, snapshots and blobs of the backend. It returns what
	// does not agree, sorted by kind, record and subject; nothing is changed. Leases of others, and snapshots
	// that no record names, are never findings.
	//
	// It may be called at any time. What looks wrong is looked at again while nothing else works on
	// that record, so operations in flight are no findings; Check waits for them, like any other user
	// of the record. The backend is asked for one list of leases and one of snapshots, and once per record
	// for the lease's resources and for a blob. An error of the backend, or the end of ctx, ends Check
	// with that error: then nothing is known.
	Check(ctx context.Context) ([]Finding, error)
	// Repair does what the Repair fields of the findings say, and returns the findings that it repaired, in
	// the order given. Each is looked at again first: one that is not true any more, or that has no
	// repair, is skipped. It goes on after an error and returns all errors joined. While a record is being
	// repaired, GetMutable of it may return ErrLocked. A finding of unknown kind is an invalid argument, and
	// then nothing is done.
	Repair(ctx context.Context, findings ...Finding) ([]Finding, error)
}
