// Package local keeps a cache in one directory of this machine. [Open] wires everything a
// manager needs and returns it ready for use; [OpenParts] stops before the manager, for tests and
// for engines that put something in between.
//
// # Directory
//
// The layout is that of a BuildKit worker directory (/var/lib/buildkit/runc-overlayfs for
// instance), so that the directory of a stopped buildkitd opens as it stands, and the other way
// round. All names in the backend's databases are in the namespace "buildkit".
//
//	content/            blobs, containerd's local content store
//	snapshots/          the snapshotter's root with a metadata.db of its own
//	containerdmeta.db   containerd's metadata: leases, snapshots, blobs
//	metadata_v2.db      the records, see package metadata
//	cachemounts/        where writable overlays are mounted for sharing
//	layercache.reserve  space for a prune on a full disk, see [Options]; no one else knows of it
//
// Directories are made with mode 0700, databases with 0600. What exists keeps its mode.
//
// # One process
//
// A directory belongs to one process at a time. The directory itself is locked (flock) and so
// are the databases; whoever comes second, be it this library or buildkitd, is told at once:
// here by [ErrInUse].
//
// # Looking only
//
// [Inspect] tells what is in a directory that nobody has open, and does not change a byte of it.
//
// # Lock order
//
// Snapshotter writes and lease writes go to the same bolt database, and containerd holds a lock
// of its own around the former. Which of the two comes first is the same for every call that
// leaves this package, see docs/adr/0011; calls that would break the order are refused. That is
// why the snapshotter and the content store below the wrappers are not exported.
package local
