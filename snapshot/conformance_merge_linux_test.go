package snapshot_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/snapshottest"
)

// fixture is the rig as the suite wants it.
func (r *mergeRig) fixture() snapshottest.MergeFixture {
	return snapshottest.MergeFixture{
		Snapshotter: r, Capabilities: r.caps, Leases: r.leases,
		CollectGarbage: func(ctx context.Context) error {
			_, err := r.db.GarbageCollect(ctx)
			return err
		},
	}
}

// TestMergeConformance runs the suite of merges on each snapshotter, in a namespace of containerd's metadata (spec MRG-1, MRG-2, MRG-3, MRG-4,
// MRG-5, MRG-6, APP-3, APP-4, APP-5, APP-6, APP-10; quirk Q55; scenarios S-32, S-33).
func TestMergeConformance(t *testing.T) {
	for _, name := range []string{"overlayfs", "overlayfs without links", "native", "copying"} {
		t.Run(name, func(t *testing.T) {
			snapshottest.RunMerge(t, func(t *testing.T) snapshottest.MergeFixture { return newMergeRig(t, name).fixture() })
		})
	}
}

// TestMergeConformanceWithoutLeases runs it where nothing is collected, so that Merge must remove what it has made.
func TestMergeConformanceWithoutLeases(t *testing.T) {
	snapshottest.RunMerge(t, func(t *testing.T) snapshottest.MergeFixture {
		sn := snapshot.NewMergeSnapshotter(t.Context(), snapshot.FromContainerdSnapshotter("native", openNative(t), nil), nil)
		require.Equal(t, "native", sn.Name())
		return snapshottest.MergeFixture{Snapshotter: sn, Capabilities: snapshot.CapabilitiesOf("native")}
	})
}
