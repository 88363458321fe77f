// Package cache is the layer cache of a container build engine: it keeps records of filesystem
// layers, lends them out as counted refs, and gives their space back.
//
// # Words
//
// A record is what the cache knows of one layer: a row in the metadata store and, in most cases, a
// snapshot. A ref is a caller's claim on a record; while a ref is held, neither the record nor
// anything it lies on goes away. A snapshot is the layer's tree, held by a containerd snapshotter;
// a blob is the layer's archive, held by a content store. A lease is what keeps both from the
// backend's garbage collection; every record has one with the record's ID.
//
// # The life of a record
//
// New makes a record with a writable snapshot and returns the only ref to it, a MutableRef.
// Commit turns that into an ImmutableRef to a second name of the same record: nothing happens to the
// snapshot yet, and GetMutable may take the Commit back once no ref is held. Finalize, which
// whatever builds on the record does by itself, commits the snapshot; from then on the immutable
// name is the only one. A record that was never finalized goes with its last ref, unless
// CachePolicyRetain was set on either half; a finalized one stays until it is pruned.
//
//	            Commit              Finalize
//	New -> Active ---> Sealed ------------------> Ready
//	          ^           |                         ^
//	          +-----------+                         | snapshot found or extracted
//	            GetMutable                 Lazy ----+
//
// GetByBlob makes records of layers that are known by their blobs. They are lazy: blobs are fetched, and
// trees unpacked and verified, when somebody needs them. Merge and Diff make lazy records, too: of several
// layers on top of each other, and of what leads from one tree to another.
//
// # Concurrency
//
// Every method may be called from any goroutine. Get, Clone and Release of an idle record touch
// memory only. Work on disk is done without any lock that another record's operations need: one
// operation at a time works on a record, its waiters can be cancelled alone, and a backend that
// hangs holds up the record it hangs on. The locks, outermost first:
//
//	slot of a record       one transition with I/O at a time; its holder may enter a parent's slot
//	the graph's mutex      memory only
//	locks of the parts     bbolt's writer, containerd's metadata
//
// # Crash contract
//
// A record is created and changed in one transaction of the metadata store each, in an order in
// which a crash at any point loses nothing that was committed and leaves nothing that the next
// NewManager does not repair: a lease before its snapshot before its row before anyone sees the
// record; to delete, the row's mark before the leases before the row. Use counts and measured sizes are
// written some seconds later and may be lost.
//
// A crash of the machine may cost the bytes of layers that were written less than a minute before, unless
// ManagerOpt.Sync is set. Their records are dropped by the next NewManager, or extracted again, and never served.
//
// # Seen from outside
//
// An Observer is told what happens, a Tracer also what begins; Manager.Totals and DiskUsage tell what there is, and Manager.Holders
// who holds it. Package observe has counters, and the module github.com/layercache/cache/otel feeds OpenTelemetry.
//
// # Files
//
// The metadata store has BuildKit's format: a cache that BuildKit v0.34 made opens as it is, and
// BuildKit opens what this package wrote.
package cache
