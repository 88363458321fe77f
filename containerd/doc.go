// Package containerd keeps the layers of a cache in a containerd daemon, which others use as well. [Open] makes
// everything a manager needs from a client and returns it ready for use; [OpenParts] stops before the manager.
//
// # What lies where
//
// Trees, blobs and the leases on them are the daemon's, in one namespace of it. The records are in a directory of the caller's:
//
//	metadata_v2.db         the records, see package metadata
//	cachemounts/           where writable overlays are mounted for sharing
//	unpacking/             where a layer that the daemon could not unpack is looked into, to tell why
//	layercache.backend     which daemon, namespace and snapshotter the records belong to
//
// The last is looked at before anything else: with records of another daemon every layer would seem lost, and
// what seems lost is deleted. See [ErrBackend].
//
// # Sharing a daemon
//
// Every lease that the cache makes is labelled with the ID of its database. Only leases with that label, or of the
// name of a record, are ever deleted; a snapshot or blob is never removed by name, but goes with its last lease, whoever has
// that. So images, containers and caches of others may be in the same namespace. Two caches in one namespace share
// their blobs, and the trees of equal layers.
//
// There is one exception, on the other side: a buildkitd that starts deletes all leases in its namespace that are labelled
// temporary, ours included, and work that is under way may fail then. A namespace should not be shared with one.
//
// # Reach
//
// What is done to trees by this process rather than by the daemon needs the daemon's snapshot directories under the same path:
// with both on one machine, in one mount namespace, and this process privileged. [OpenParts] finds out whether that is so, by a file that it
// writes and the daemon counts, and Parts.Reach tells the result.
//
//	                     reachable                                 not reachable
//	unpacking            by the daemon                             by the daemon
//	merge and diff       hard links, as on package local           the daemon packs each difference and unpacks it
//	packing of blobs     by the library, all compressions          by the daemon: uncompressed, gzip and zstd as it can
//	mounts               can be mounted by this process            are of use where the daemon's directories are
//	flushing to disk     by this process                           not known, see ManagerOpt.SyncFS
//	free space           of the daemon's disk                      of the disk with the records
//
// # Calls
//
// Nearly everything the manager asks of the parts is a round trip. Each has a limit; see Options.CallTimeout. Errors have the categories of
// errdefs: unavailable for a daemon that is down, deadline exceeded for one that does not answer. Nothing is lost by either: the manager
// goes on as soon as the daemon is back, without being opened again.
package containerd
