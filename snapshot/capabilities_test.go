package snapshot_test

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// TestCapabilities pins each capability to the names the rules give it to (spec MRG-2, BLOB-5, EXT-2, EXT-7, REM-1, MGR-5, MGR-18).
func TestCapabilities(t *testing.T) {
	for name, want := range map[string]snapshot.Capabilities{
		"native":         {HardlinkMerge: true, NeverOverlayDiff: true},
		"overlayfs":      {HardlinkMerge: true, OverlayBased: true, Rebase: true},
		"fuse-overlayfs": {NeverOverlayDiff: true},
		"stargz":         {OverlayBased: true, RemoteSnapshots: true, SessionLabels: true, TOCIdentity: true},
		"overlaybd":      {RemoteSnapshots: true, WritableLabel: true, ExtractLabel: true, DeviceCommit: true},
		"":               {},
		"btrfs":          {},
		"OverlayFS":      {},
	} {
		require.Equal(t, want, snapshot.CapabilitiesOf(name), name)
	}
}

// TestWritableOpts: overlaybd gets its label, nobody else gets one (spec MGR-5, MNT-2).
func TestWritableOpts(t *testing.T) {
	require.Empty(t, snapshot.CapabilitiesOf("overlayfs").WritableOpts())
	var info snapshots.Info
	for _, opt := range snapshot.CapabilitiesOf("overlaybd").WritableOpts() {
		require.NoError(t, opt(&info))
	}
	require.Equal(t, map[string]string{"containerd.io/snapshot/overlaybd.writable": "dev"}, info.Labels)
}
