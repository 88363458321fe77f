// Package snapshot is the seam between the cache and whatever keeps the bytes of its layers.
//
// The cache talks to a [Snapshotter]: containerd's snapshotter interface with two changes. Mounts come
// as a [Mountable], which can be mounted any number of times and knows when it is no longer used, and
// Prepare returns no mounts, since most callers only want the snapshot to exist.
// [FromContainerdSnapshotter] and [NewContainerdSnapshotter] translate in the two directions; package
// snapshot/containerd adds the namespace, and package snapshot/snapshottest has the suite that any
// implementation must pass.
//
// [LocalMounter] puts a Mountable under a path of this machine. What a snapshotter can do beyond the
// interface is asked of [CapabilitiesOf], the only place that knows snapshotters by name.
package snapshot
