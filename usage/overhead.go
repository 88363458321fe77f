package usage

// OverheadKind says what takes up space without being a record's.
type OverheadKind string

// The kinds of overhead.
const (
	// OverheadDatabase is a file of the cache's own bookkeeping, or the backend's.
	OverheadDatabase OverheadKind = "database"
	// OverheadReserve is space that is kept back for a prune on a full disk.
	OverheadReserve OverheadKind = "reserve"
	// OverheadIngest is what has arrived of a blob whose transfer is not finished: under way, or broken off and kept to be resumed.
	OverheadIngest OverheadKind = "ingest"
	// OverheadSnapshot is a snapshot that no record owns: of an operation under way, of a user of the backend beside the
	// cache, or left for the next garbage collection.
	OverheadSnapshot OverheadKind = "orphan snapshot"
	// OverheadBlob is a blob that no record owns; what is said of snapshots goes for it as well.
	OverheadBlob OverheadKind = "orphan blob"
	// OverheadStray is a file or directory among the cache's data that nothing lists: what a process left that died while it
	// wrote or deleted it, and a damaged database that was kept. Only a look from outside finds it, see local.Inspect.
	OverheadStray OverheadKind = "stray"
)

// Overhead is something that takes up space without being a record's.
type Overhead struct {
	Kind OverheadKind `json:"kind"`
	// Name is the path of a database, a reserve or a stray, the ref of an ingest, the key of a snapshot, the digest of a blob.
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
}
