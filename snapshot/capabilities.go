package snapshot

import (
	"github.com/containerd/containerd/v2/core/snapshots"
)

// Labels by which the cache and particular snapshotters understand each other.
const (
	// LabelRemote marks a snapshot whose content the snapshotter fetches by itself.
	LabelRemote = "containerd.io/snapshot/remote"
	// LabelWritable asks overlaybd for a snapshot backed by a block device (value "dev").
	LabelWritable = "containerd.io/snapshot/overlaybd.writable"
	// LabelDevice names the block device that holds a snapshot of overlaybd's.
	LabelDevice = "containerd.io/snapshot/overlaybd.localcommitpath"
	// LabelRef names the snapshot that one being prepared is to become.
	LabelRef = "containerd.io/snapshot.ref"
)

// Capabilities is what a snapshotter can do, or needs, beyond the Snapshotter interface. The zero value is
// right for a snapshotter nobody knows.
type Capabilities struct {
	// HardlinkMerge says that files may be hard-linked from one snapshot into another (spec MRG-2).
	HardlinkMerge bool
	// OverlayBased says that a snapshot is an upper directory on top of its parents' directories, so that
	// a merge may start on a base instead of copying it (spec MRG-2).
	OverlayBased bool
	// NeverOverlayDiff says that an upper directory must not be looked for when a blob is computed (spec BLOB-5).
	NeverOverlayDiff bool
	// RemoteSnapshots says that the snapshotter may provide layers itself, so it is asked before a blob is
	// fetched (spec EXT-2, REM-2).
	RemoteSnapshots bool
	// SessionLabels says that operations on remote snapshots need temporary labels naming the sessions that
	// may be asked for credentials (spec REM-1).
	SessionLabels bool
	// TOCIdentity says that a layer's table of contents is part of what it is: two with the same uncompressed data are
	// different layers if the tables differ (spec MGR-18).
	TOCIdentity bool
	// WritableLabel says that snapshots to be written to, and views, are asked for by label; see
	// WritableOpts (spec MGR-5, MNT-2).
	WritableLabel bool
	// ExtractLabel says that the snapshot a layer is unpacked into names what it will be committed as; see
	// ExtractOpts (spec EXT-7).
	ExtractLabel bool
	// DeviceCommit says that a layer may be a block device, which LabelDevice names and which makes its blob (spec BLOB-5).
	DeviceCommit bool
	// Rebase says that an active snapshot without a parent is a plain directory that becomes an overlay's upper
	// directory when it is committed onto a parent (snapshots.WithParent). That Commit accepts the option proves
	// nothing: native accepts it, too, and the tree lacks the parent.
	Rebase bool
}

// CapabilitiesOf returns what is known of the snapshotter called name. Nothing else in this module compares
// snapshotter names.
func CapabilitiesOf(name string) Capabilities {
	switch name {
	case "native":
		return Capabilities{HardlinkMerge: true, NeverOverlayDiff: true}
	case "overlayfs":
		return Capabilities{HardlinkMerge: true, OverlayBased: true, Rebase: true}
	case "fuse-overlayfs":
		return Capabilities{NeverOverlayDiff: true}
	case "stargz":
		return Capabilities{OverlayBased: true, RemoteSnapshots: true, SessionLabels: true, TOCIdentity: true}
	case "overlaybd":
		return Capabilities{RemoteSnapshots: true, WritableLabel: true, ExtractLabel: true, DeviceCommit: true}
	}
	return Capabilities{}
}

// WritableOpts returns the options to add when a snapshot is prepared on a parent, or viewed, for use by a
// build. Nil for a snapshotter that needs none.
func (c Capabilities) WritableOpts() []snapshots.Opt {
	if !c.WritableLabel {
		return nil
	}
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{LabelWritable: "dev"})}
}

// ExtractOpts returns the options to add when a snapshot is prepared to unpack a layer into that will be
// committed as target. Nil for a snapshotter that needs none.
func (c Capabilities) ExtractOpts(target string) []snapshots.Opt {
	if !c.ExtractLabel {
		return nil
	}
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{LabelRef: target})}
}
