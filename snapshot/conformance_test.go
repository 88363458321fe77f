//go:build linux

package snapshot_test

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/snapshottest"
	"github.com/layercache/cache/testutil/need"
)

// openNative returns containerd's native snapshotter in a temporary directory. It needs no privileges.
func openNative(t *testing.T) snapshots.Snapshotter {
	t.Helper()
	sn, err := native.NewSnapshotter(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sn.Close()) })
	return sn
}

// openOverlay returns containerd's overlayfs snapshotter in a temporary directory, or skips.
func openOverlay(t *testing.T) snapshots.Snapshotter {
	t.Helper()
	need.Overlay(t)
	sn, err := overlay.NewSnapshotter(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sn.Close()) })
	return sn
}

// TestConformanceNative runs the suite on the native snapshotter, as any user (spec SNP-1, SNP-2).
func TestConformanceNative(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		return snapshottest.Fixture{Snapshotter: snapshot.FromContainerdSnapshotter("native", openNative(t), nil)}
	})
}

// TestConformanceOverlay runs the suite on overlayfs (spec SNP-1, SNP-2).
func TestConformanceOverlay(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		return snapshottest.Fixture{Snapshotter: snapshot.FromContainerdSnapshotter("overlayfs", openOverlay(t), nil)}
	})
}

// TestConformanceThereAndBack runs the suite on a snapshotter adapted to containerd and back (spec SNP-4).
func TestConformanceThereAndBack(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		there, release := snapshot.NewContainerdSnapshotter(snapshot.FromContainerdSnapshotter("native", openNative(t), nil))
		t.Cleanup(func() { require.NoError(t, release()) })
		return snapshottest.Fixture{Snapshotter: snapshot.FromContainerdSnapshotter("native", there, nil)}
	})
}
