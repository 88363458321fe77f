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
}

// DiskUsageInfo selects what DiskUsage reports.
type DiskUsageInfo struct {
	// Filter holds expressions in containerd's filter syntax; they are OR-ed, and none matches everything.
	Filter []string
	// AgeLimit, if positive, leaves out records used within this duration.
	AgeLimit time.Duration
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
}
