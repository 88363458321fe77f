// Package snapshot stands in for BuildKit's package of that path: its names, on the library.
package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"
	digest "github.com/opencontainers/go-digest"

	lib "github.com/layercache/cache/snapshot"
)

type (
	// Diff is what a merge takes from one layer to another.
	Diff = lib.Diff
	// LocalMounterOpt is an option of LocalMounter.
	LocalMounterOpt = lib.LocalMounterOpt
	// MergeSnapshotter is a snapshotter that can merge.
	MergeSnapshotter = lib.MergeSnapshotter
	// Mountable is what has mounts, until they are released.
	Mountable = lib.Mountable
	// Mounter mounts, and unmounts.
	Mounter = lib.Mounter
	// Snapshotter is containerd's with mounts that are released and with mapped users.
	Snapshotter = lib.Snapshotter
)

// FromContainerdSnapshotter makes a Snapshotter of containerd's.
func FromContainerdSnapshotter(name string, s snapshots.Snapshotter, idmap *user.IdentityMapping) Snapshotter {
	return lib.FromContainerdSnapshotter(name, s, idmap)
}

// NewContainerdSnapshotter makes containerd's of a Snapshotter. The function releases all mounts.
func NewContainerdSnapshotter(s Snapshotter) (snapshots.Snapshotter, func() error) {
	return lib.NewContainerdSnapshotter(s)
}

// NewMergeSnapshotter makes one that can merge of one that cannot.
func NewMergeSnapshotter(ctx context.Context, sn Snapshotter, lm leases.Manager) MergeSnapshotter {
	return lib.NewMergeSnapshotter(ctx, sn, lm)
}

// LocalMounter mounts in a directory for temporary files what m has.
func LocalMounter(m Mountable, opts ...LocalMounterOpt) Mounter { return lib.LocalMounter(m, opts...) }

// LocalMounterWithMounts does so with the given mounts.
func LocalMounterWithMounts(mounts []mount.Mount, opts ...LocalMounterOpt) Mounter {
	return lib.LocalMounterWithMounts(mounts, opts...)
}

// ForceRemount has even a bind mount mounted, whose source would do.
func ForceRemount() LocalMounterOpt { return lib.ForceRemount() }

// LayerSnapshotID is the name of the snapshot of a layer with that chain ID.
func LayerSnapshotID(chainID digest.Digest) string { return lib.LayerSnapshotID(chainID) }

// ParseLayerSnapshotID reads such a name.
func ParseLayerSnapshotID(id string) (digest.Digest, bool) { return lib.ParseLayerSnapshotID(id) }
