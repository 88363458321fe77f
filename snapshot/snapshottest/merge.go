package snapshottest

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// MergeFixture is a merge snapshotter to test.
type MergeFixture struct {
	// Snapshotter is empty and used by one test only. The suite does not close it.
	Snapshotter snapshot.MergeSnapshotter
	// Capabilities say what merges may do: link files, and start on a snapshot. They are those that the merge snapshotter was made
	// with, or what snapshot.CapabilitiesOf says of its name.
	Capabilities snapshot.Capabilities
	// Leases are what holds snapshots, and CollectGarbage removes those that no lease holds. Nil if snapshots stay until they
	// are removed; then what is about leases is not tested.
	Leases         leases.Manager
	CollectGarbage func(ctx context.Context) error
}

// mergeChecks are all that RunMerge runs.
var mergeChecks = []struct {
	name string
	// leases says that the check needs them.
	leases bool
	run    func(t *testing.T, h *mergeHarness)
}{
	{name: "MergeOfLayers", run: checkMergeLayers},
	{name: "MergeOfNothing", run: checkMergeNothing},
	{name: "MergeDeletes", run: checkMergeDeletes},
	{name: "MergeReplaces", run: checkMergeReplaces},
	{name: "MergeKeepsAttributes", run: checkMergeAttributes},
	{name: "MergeKeepsLinks", run: checkMergeLinks},
	{name: "MergeOfTheSameTwice", run: checkMergeTwice},
	{name: "MergeOfMerges", run: checkMergeMerges},
	{name: "MergeOfUnrelated", run: checkMergeUnrelated},
	{name: "MergeLeavesItsSources", run: checkMergeSources},
	{name: "MergeStartsOnASnapshot", run: checkMergeBase},
	{name: "MergeUsage", run: checkMergeUsage},
	{name: "MergeUsageOfLinks", run: checkMergeUsageLinks},
	{name: "MergeUsageLabels", run: checkMergeUsageLabels},
	{name: "MergeOptions", run: checkMergeOptions},
	{name: "MergeMissing", run: checkMergeMissing},
	{name: "MergeTaken", run: checkMergeTaken},
	{name: "MergeCancelled", run: checkMergeCancelled},
	{name: "MergeConcurrently", run: checkMergeConcurrently},
	{name: "MergeHoldsNothing", leases: true, run: checkMergeHoldsNothing},
	{name: "MergeUnderALease", leases: true, run: checkMergeUnderLease},
	{name: "MergeFailedLeavesNothing", leases: true, run: checkMergeFailedLeavesNothing},
}

// RunMerge tests what open returns, with a fresh one for every check, beside what Run tests. Open disposes of its parts by t.Cleanup.
// It needs Linux and snapshots with content. As root it tests owners and devices, too.
func RunMerge(t *testing.T, open func(t *testing.T) MergeFixture) {
	t.Helper()
	for _, c := range mergeChecks {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			if c.leases && (f.Leases == nil || f.CollectGarbage == nil) {
				t.Skip("the fixture has no leases")
			}
			c.run(t, newMergeHarness(t, f))
		})
	}
}

// mergeHarness is what the checks work with.
type mergeHarness struct {
	*harness
	MergeFixture
	// lease holds all that a check makes; ctx of the harness has it. free is a context without it.
	lease leases.Lease
	free  context.Context
}

const heldBy = "snapshottest"

func newMergeHarness(t *testing.T, f MergeFixture) *mergeHarness {
	t.Helper()
	ctx := t.Context()
	h := &mergeHarness{harness: &harness{sn: f.Snapshotter, ctx: ctx}, MergeFixture: f, free: ctx}
	if f.Leases != nil {
		var err error
		h.lease, err = f.Leases.Create(ctx, leases.WithID(heldBy))
		require.NoError(t, err)
		h.ctx = leases.WithLease(ctx, heldBy)
	}
	return h
}

// hold makes the lease hold a snapshot that is yet to be made.
func (h *mergeHarness) hold(t *testing.T, key string) {
	t.Helper()
	if h.Leases == nil {
		return
	}
	require.NoError(t, h.Leases.AddResource(h.ctx, h.lease, leases.Resource{ID: key, Type: "snapshots/" + h.Snapshotter.Name()}))
}

// mustMerge merges diffs, as a manager does: the lease holds the result beforehand, and Merge finds none in the context.
func (h *mergeHarness) mustMerge(t *testing.T, key string, diffs ...snapshot.Diff) {
	t.Helper()
	h.hold(t, key)
	require.NoError(t, h.Snapshotter.Merge(h.free, key, diffs))
	require.Equal(t, snapshots.KindCommitted, h.kind(t, key))
}

// look returns the tree of a committed snapshot, which can be looked at once.
func (h *mergeHarness) look(t *testing.T, key string) tree {
	t.Helper()
	return h.view(t, "look-"+key, key)
}

// keys lists all snapshots.
func (h *mergeHarness) keys(t *testing.T) (keys []string) {
	t.Helper()
	require.NoError(t, h.sn.Walk(h.ctx, func(_ context.Context, info snapshots.Info) error {
		keys = append(keys, info.Name)
		return nil
	}))
	return keys
}

// layers is the chain of layers up from nothing.
func layers(names ...string) (diffs []snapshot.Diff) {
	lower := ""
	for _, name := range names {
		diffs = append(diffs, snapshot.Diff{Lower: lower, Upper: name})
		lower = name
	}
	return diffs
}
