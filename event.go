package cache

import (
	"time"

	digest "github.com/opencontainers/go-digest"
)

// EventKind says what an Event is about. Kinds are added over time; an observer leaves alone what it does not know.
type EventKind string

// The kinds of events. Unless something else is said, the event comes when the work has ended, well or not, ID is the record's,
// and Reason, Cause and Size are without meaning.
const (
	// EventNew: a record was made. Reason is "blob", "merge" or "diff" if it has no tree yet. By GetByBlob, Cause is CauseTree if
	// the tree of another record will do for the new one, else CauseUnknown.
	EventNew EventKind = "new"
	// EventGet: a ref to an existing record was handed out, or was not. Reason is ReasonHit or ReasonMiss. Cause tells how a record was
	// found, CauseID or CauseBlob, or why it was not; then Err is set.
	EventGet EventKind = "get"
	// EventRelease: the last ref of a record was released.
	EventRelease EventKind = "release"
	// EventCommit: a mutable record was sealed by its user. ID is the name it has since then, or, with Err, the one it still has. Its size is not known
	// then; see Manager.Totals.
	EventCommit EventKind = "commit"
	// EventReopen: a sealed record was taken up for writing again. Failures are told by the EventGet.
	EventReopen EventKind = "reopen"
	// EventFinalize: a sealed record's snapshot was committed. Failures are told by who wanted it.
	EventFinalize EventKind = "finalize"
	// EventMount: the mounts of a record were made.
	EventMount EventKind = "mount"
	// EventPull: a blob that was not local was wanted. Reason is ReasonFetched for one of those who waited for a transfer, ReasonShared for the
	// others, ReasonLocal if it had become local by then. Digest is the blob's and Size its length; Source is the DescHandler's Ref.
	EventPull EventKind = "pull"
	// EventExtract: a layer was unpacked, Digest being its blob's and Size that one's length, or the tree of a merge or a diff was made;
	// then Reason is "merge" or "diff".
	EventExtract EventKind = "extract"
	// EventPack: the blob of a layer was made, of the compression that Reason names. Digest is its digest, Size its length.
	EventPack EventKind = "pack"
	// EventConvert: a blob was made of another compression, which Reason names. Digest and Size are the new one's.
	EventConvert EventKind = "convert"
	// EventExport: the blobs of a record were handed out; Size is that of all of them.
	EventExport EventKind = "export"
	// EventRemove: a record was removed. Reason is ReasonPruned or ReasonReleased. Of what was pruned Cause is the rule that chose it and Size
	// what came free with it.
	EventRemove EventKind = "remove"
	// EventRecover: a record left by an earlier process was repaired or dropped. Reason says how: ReasonFinalized and the four after it.
	EventRecover EventKind = "recover"
	// EventPrune: a call of Prune has ended, which had valid policies. Records is how many records went and Size what came free with them; the
	// garbage collection, which gives the space back, is part of it. With ReasonDryRun as its Reason it is what would go. ID is empty.
	EventPrune EventKind = "prune"
	// EventCollect: the backend collected garbage because the manager asked for it. ID is empty.
	EventCollect EventKind = "collect"
	// EventWait: an operation had to wait for others before it could go on. Reason is the pool, one of the Pool constants, Duration how long
	// it waited, and Err why it gave up. Who need not wait causes no event. Source is the DescHandler's Ref in PoolPull; ID is empty where no
	// record has an ID yet.
	EventWait EventKind = "wait"
	// EventLeak: a ref was garbage-collected that nobody had released, told once, while ManagerOpt.TrackHolders is set. Holder says who
	// took it, Reason is "mutable" or "immutable", Duration is its age.
	EventLeak EventKind = "leak"
)

// The values of Event.Reason.
const (
	ReasonHit      = "hit"
	ReasonMiss     = "miss"
	ReasonFetched  = "fetched"
	ReasonShared   = "shared"
	ReasonLocal    = "local"
	ReasonPruned   = "pruned"
	ReasonReleased = "released"
	ReasonDryRun   = "dry run"

	// ReasonFinalized: what was half finalized is finalized.
	ReasonFinalized = "finalized"
	// ReasonBroken: the record was dropped, for what it needs is not there; it was about to be made, for instance.
	ReasonBroken = "broken"
	// ReasonDeleted: a removal that had begun was finished.
	ReasonDeleted = "deleted"
	// ReasonUnsynced: the record was dropped, for the machine went down before it was on disk.
	ReasonUnsynced = "unsynced"
	// ReasonAgain: the same, of a record that can be extracted again, and will be when it is needed.
	ReasonAgain = "unsynced, to be extracted again"
)

// The values of Event.Cause of EventGet and EventNew.
const (
	// CauseID: the record was found by its ID.
	CauseID = "id"
	// CauseBlob: a record was found that consists of exactly the blobs asked for.
	CauseBlob = "blob"
	// CauseTree: there is no such record, but one of the same chain ID, in other compressions, whose tree serves both.
	CauseTree = "tree"
	// CauseUnknown: nothing like it is in the cache.
	CauseUnknown = "unknown"
	// CauseNotFound: no record has the ID.
	CauseNotFound = "not found"
	// CauseLocked: live refs exclude the request.
	CauseLocked = "locked"
	// CauseNoProvider: blobs are neither local nor have a handler.
	CauseNoProvider = "no provider"
	// CauseInvalid: the request cannot be met, such as for a mutable ref to an immutable record.
	CauseInvalid = "invalid"
	// CauseFailed: something else, which Err tells.
	CauseFailed = "failed"
)

// The values of Event.Cause of EventRemove for a record that was pruned: what of the policy made it go.
const (
	// RuleIdle: the policy names no limit, so that everything idle goes.
	RuleIdle = "idle"
	// RuleKeepDuration: it names no amount of space, and the record was not used for longer than KeepDuration.
	RuleKeepDuration = "keep-duration"
	// RuleReservedSpace: the cache is larger than ReservedSpace, and the policy has no other limit of space.
	RuleReservedSpace = "reserved-space"
	// RuleMaxUsedSpace: the cache is larger than MaxUsedSpace.
	RuleMaxUsedSpace = "max-used-space"
	// RuleMinFreeSpace: less of the disk is free than MinFreeSpace.
	RuleMinFreeSpace = "min-free-space"
)

// The values of Event.Reason of EventWait: what was waited for.
const (
	// PoolRecord: another operation on the same record.
	PoolRecord = "record"
	// PoolLayer: another GetByBlob of the same layer on the same parent.
	PoolLayer = "layer"
	// PoolTree: another merge or diff that has the same tree made.
	PoolTree = "tree"
	// PoolPull: a transfer from the same origin; four go on at a time.
	PoolPull = "pull"
	// PoolUnpack: the unpacking of a layer or the making of a merge; as many as processors and two more go on at a time.
	PoolUnpack = "unpack"
	// PoolPack: the making or converting of a blob; as many as processors and one more go on at a time.
	PoolPack = "pack"
	// PoolPrune: another prune.
	PoolPrune = "prune"
)

// Event is something that happened in the cache. Fields are added over time; use keyed literals.
type Event struct {
	Kind EventKind
	// ID is the record's ID.
	ID string
	// Reason tells the cause in a word or two, where there is a choice, and Cause more of it. Both come from small sets, those of
	// EventKind, and may be labels of a metric; ID, Source and Digest may not.
	Reason, Cause string
	// Source is where a blob comes from, as the DescHandler has it.
	Source string
	// Digest is that of a blob.
	Digest digest.Digest
	// Records counts records.
	Records int
	// Size is in bytes, 0 where unknown or without meaning.
	Size int64
	// Duration is how long the work took, waits included.
	Duration time.Duration
	// Err is the error the work ended with.
	Err error
	// Holder is who holds a ref.
	Holder *Holder
}
