// Package usage holds the plain types in which the cache reports what its records occupy
// and takes the rules by which they are pruned. JSON names are those of BuildKit's client.
package usage

import "time"

// RecordType says what a record was made for. Some types are protected from pruning
// unless a policy asks for everything.
type RecordType string

// The record types of the field. An unset type is reported as TypeRegular.
const (
	// TypeInternal marks records of the engine itself; protected from an ordinary prune.
	TypeInternal RecordType = "internal"
	// TypeFrontend marks frontend images; protected from an ordinary prune.
	TypeFrontend RecordType = "frontend"
	// TypeLocalSource marks trees synced from a client.
	TypeLocalSource RecordType = "source.local"
	// TypeGitCheckout marks checked-out git repositories.
	TypeGitCheckout RecordType = "source.git.checkout"
	// TypeCacheMount marks directories that build steps keep between runs.
	TypeCacheMount RecordType = "exec.cachemount"
	// TypeRegular marks everything else.
	TypeRegular RecordType = "regular"
)

// Info describes one record at the moment it was asked for. It is a copy: changing it
// changes nothing in the cache.
type Info struct {
	// ID is the record's ID. A lazily committed pair is shown once (spec DU-1).
	ID string `json:"id"`
	// Mutable is true while the record has not been committed.
	Mutable bool `json:"mutable"`
	// InUse is true if somebody outside the cache can reach the record through a live ref.
	InUse bool `json:"inUse"`
	// Size is what the record occupies in bytes, 0 where that is not known yet.
	Size int64 `json:"size"`

	// CreatedAt is when the record was made.
	CreatedAt time.Time `json:"createdAt"`
	// LastUsedAt is when the last counted use ended, nil for a record never used.
	LastUsedAt *time.Time `json:"lastUsedAt"`
	// UsageCount is the number of counted uses.
	UsageCount int `json:"usageCount"`
	// Parents holds the IDs of the parents in order, repeated where a merge repeats them.
	Parents []string `json:"parents"`
	// Description is the text given at creation or set later.
	Description string `json:"description"`
	// RecordType is never empty in a report.
	RecordType RecordType `json:"recordType"`
	// Shared is true if something outside the cache, an image for instance, keeps the data alive.
	Shared bool `json:"shared"`
	// Verdict tells what the policies that DiskUsage was asked about would do to the record; nil without such.
	Verdict *Verdict `json:"verdict,omitempty"`
}

// Reason is why a policy leaves a record alone.
type Reason string

// The reasons, of which the first that applies is told.
const (
	// ReasonPruned: the policy deletes it.
	ReasonPruned Reason = "pruned"
	// ReasonInUse: a live ref leads to it.
	ReasonInUse Reason = "in use"
	// ReasonPinned: it was pinned, or something that lies on it.
	ReasonPinned Reason = "pinned"
	// ReasonProtectedType: records of its type go only with All.
	ReasonProtectedType Reason = "protected type"
	// ReasonShared: something outside of the cache refers to it, and it goes only with All.
	ReasonShared Reason = "shared"
	// ReasonTooYoung: it was used within KeepDuration.
	ReasonTooYoung Reason = "too young"
	// ReasonFiltered: the filter does not match it.
	ReasonFiltered Reason = "filtered"
	// ReasonParent: something lies on it that stays.
	ReasonParent Reason = "parent"
	// ReasonWithinBudget: there is room for it.
	ReasonWithinBudget Reason = "within budget"
)

// Verdict is what a list of prune policies, applied in order, does to a record.
type Verdict struct {
	// Pruned tells whether one of them deletes it.
	Pruned bool `json:"pruned"`
	// Reasons has the reason of each policy, up to and with the one that deletes it.
	Reasons []Reason `json:"reasons"`
}

// DiskUsageInfo selects what DiskUsage reports.
type DiskUsageInfo struct {
	// Filter holds expressions in containerd's filter syntax; they are OR-ed, and none matches everything.
	Filter []string
	// AgeLimit, if positive, leaves out records used within this duration.
	AgeLimit time.Duration
	// Policies, if there are any, are what every record's Verdict is about.
	Policies []PruneInfo
}

// PruneInfo is one prune policy. Sizes are bytes.
type PruneInfo struct {
	// All includes protected types and shared records.
	All bool `json:"all"`
	// Filter holds expressions in containerd's filter syntax; they are OR-ed, and none matches everything.
	Filter []string `json:"filter"`
	// KeepDuration protects records used within this duration.
	KeepDuration time.Duration `json:"keepDuration"`

	// ReservedSpace is what the cache may always keep.
	ReservedSpace int64 `json:"reservedSpace"`
	// MaxUsedSpace is what the cache may occupy at most; 0 means no cap.
	MaxUsedSpace int64 `json:"maxUsedSpace"`
	// MinFreeSpace is what pruning tries to leave free on the disk.
	MinFreeSpace int64 `json:"minFreeSpace"`

	// KeepBytes is what ReservedSpace was called once: alone it means the same, and with another ReservedSpace the policy is
	// invalid (spec OLD-1).
	KeepBytes int64 `json:"keepBytes,omitempty"`
	// DryRun has Prune report what it would delete, and nothing more. All policies of a call have it, or none.
	DryRun bool `json:"dryRun,omitempty"`
}

// Scorer says in which order records go where not all of them have to. It is to be safe for concurrent use, and is
// called with no lock of the cache held.
type Scorer interface {
	// Score weighs a record that may be pruned; the lowest goes first. It is asked once per record and policy. Equal
	// scores go by the last use, the number of uses, and the age; one that is not a number is an invalid argument.
	Score(Info) float64
}
