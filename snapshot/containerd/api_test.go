package containerd_test

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"
	"github.com/opencontainers/go-digest"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/containerd"
)

// The signatures that call sites of engines fix (spec 0.7); a change does not compile.
var (
	_ func(string, snapshots.Snapshotter, *user.IdentityMapping) snapshot.Snapshotter         = snapshot.FromContainerdSnapshotter
	_ func(snapshot.Snapshotter) (snapshots.Snapshotter, func() error)                        = snapshot.NewContainerdSnapshotter
	_ func(snapshot.Mountable, ...snapshot.LocalMounterOpt) snapshot.Mounter                  = snapshot.LocalMounter
	_ func([]mount.Mount, ...snapshot.LocalMounterOpt) snapshot.Mounter                       = snapshot.LocalMounterWithMounts
	_ func() snapshot.LocalMounterOpt                                                         = snapshot.ForceRemount
	_ func(digest.Digest) string                                                              = snapshot.LayerSnapshotID
	_ func(string) (digest.Digest, bool)                                                      = snapshot.ParseLayerSnapshotID
	_ func(string, snapshots.Snapshotter, string, *user.IdentityMapping) snapshot.Snapshotter = containerd.NewSnapshotter
	_ func(string, snapshots.Snapshotter) snapshots.Snapshotter                               = containerd.NSSnapshotter
	_ func(content.Store, string) *containerd.Store                                           = containerd.NewContentStore
	_ func(*containerd.Store, string) content.Store                                           = (*containerd.Store).WithFallbackNS
	_ func(*containerd.Store, string) *containerd.Store                                       = (*containerd.Store).WithNamespace
	_ func(*containerd.Store) string                                                          = (*containerd.Store).Namespace
	_ content.Store                                                                           = containerd.Store{}.Store
)
