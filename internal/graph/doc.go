// Package graph is the cache's memory: which records exist, in which state, under which names,
// on which parents, and who holds them.
//
// Everything here is counting and pointer work under one mutex. No method takes a function, a
// channel or a context, and none does I/O, so that whoever holds the mutex gives it back at once.
// What has to happen on disk is decided here (an Outcome says what a dropped ref asks for) and
// done by the caller with the mutex released; its result is published by another call.
//
// # Names
//
// A record is one snapshot. It has a mutable name while the snapshot can be written to and an
// immutable name once its user committed it. Between Commit and Finalize it has both: the pair
// that BuildKit's format stores as two rows (equalMutable) is one Record here, so its halves
// share every lock and every count.
//
// # Counts
//
//	refs      live immutable refs, callers' and those of operations in flight
//	triggers  those of refs whose end counts as a use
//	writer    a live mutable ref, or an operation that reserved the right to make one
//	consumed  the mutable ref that Commit took and that the last immutable ref gives back
//	links     places in which other records name this one as a parent
package graph
