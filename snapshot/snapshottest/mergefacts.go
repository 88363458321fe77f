package snapshottest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// checkMergeBase: on an overlay the diffs at the beginning that are the layers of a snapshot are not applied (spec MRG-3).
func checkMergeBase(t *testing.T, h *mergeHarness) {
	h.commit(t, "a", "", func(root string) { write(t, root, "a", "a") })
	h.commit(t, "b", "a", func(root string) { write(t, root, "b", "b") })
	h.commit(t, "c", "", func(root string) { write(t, root, "c", "c") })
	for name, tc := range map[string]struct {
		diffs []snapshot.Diff
		base  string
	}{
		"chain":       {append(layers("a", "b"), snapshot.Diff{Upper: "c"}), "b"},
		"one":         {[]snapshot.Diff{{Upper: "a"}, {Upper: "c"}}, "a"},
		"not a chain": {[]snapshot.Diff{{Upper: "c"}, {Lower: "a", Upper: "b"}}, "c"},
		"skips one":   {[]snapshot.Diff{{Upper: "b"}, {Upper: "c"}}, ""},
		"not from 0":  {[]snapshot.Diff{{Lower: "a", Upper: "b"}, {Upper: "c"}}, ""},
		"all of it":   {layers("a", "b"), "b"},
	} {
		key := strings.ReplaceAll("m "+name, " ", "-")
		h.mustMerge(t, key, tc.diffs...)
		info, err := h.sn.Stat(h.ctx, key)
		require.NoError(t, err)
		if !h.Capabilities.OverlayBased {
			tc.base = ""
		}
		require.Equal(t, tc.base, info.Parent, name)
		want := map[string]bool{}
		for _, d := range tc.diffs {
			want[d.Upper] = true
		}
		if tc.diffs[0].Upper == "b" {
			want["a"] = want["b"] && tc.diffs[0].Lower == ""
		}
		got := h.look(t, key)
		for _, file := range []string{"a", "b", "c"} {
			require.Equal(t, want[file], got[file] != "", "%s: %s", name, file)
		}
	}
}

// smallFiles commits the layers of the example in spec MRG-6: all have one directory in common.
func (h *mergeHarness) smallFiles(t *testing.T) []snapshot.Diff {
	t.Helper()
	var diffs []snapshot.Diff
	for i, names := range [][]string{{"foo/1"}, {"foo/2"}, {"foo/3", "bar"}} {
		key := fmt.Sprintf("layer-%d", i)
		h.commit(t, key, "", func(root string) {
			mkdir(t, root, "foo")
			for _, name := range names {
				write(t, root, name, strings.Repeat(name, 20_000))
			}
		})
		diffs = append(diffs, snapshot.Diff{Upper: key})
	}
	return diffs
}

// checkMergeUsage is the example of spec MRG-6 (scenario S-33): only what the merge has made itself is counted.
func checkMergeUsage(t *testing.T, h *mergeHarness) {
	diffs := h.smallFiles(t)
	if h.Capabilities.OverlayBased {
		diffs = append([]snapshot.Diff{{}}, diffs...) // so that nothing is taken as a parent
	}
	h.mustMerge(t, "m", diffs...)
	got, err := h.Snapshotter.Usage(h.ctx, "m")
	require.NoError(t, err)
	const files = 4 * 60_000
	if h.Capabilities.HardlinkMerge {
		require.Equal(t, int64(2), got.Inodes, "the root and a directory")
		require.Less(t, got.Size, int64(files), "what is linked is the sources'")
		return
	}
	require.Equal(t, int64(6), got.Inodes, "the root, a directory and four files")
	require.GreaterOrEqual(t, got.Size, int64(files))
}

// checkMergeUsageLinks: a file with several names is one inode, also if an input is repeated.
func checkMergeUsageLinks(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) {
		write(t, root, "a", strings.Repeat("a", 100_000))
		require.NoError(t, os.Link(filepath.Join(root, "a"), filepath.Join(root, "b")))
	})
	h.commit(t, "two", "", func(root string) { write(t, root, "c", "c") })
	h.mustMerge(t, "m", snapshot.Diff{}, snapshot.Diff{Upper: "one"}, snapshot.Diff{Upper: "two"}, snapshot.Diff{Upper: "one"})
	got, err := h.Snapshotter.Usage(h.ctx, "m")
	require.NoError(t, err)
	want := int64(3)
	if h.Capabilities.HardlinkMerge {
		want = 1
	}
	require.Equal(t, want, got.Inodes)
	require.Less(t, got.Size, int64(200_000), "counted once")
}

// checkMergeUsageLabels: the usage is kept in labels, one of which stands for the other, too (spec MRG-5).
func checkMergeUsageLabels(t *testing.T, h *mergeHarness) {
	const size, inodes = "buildkit.mergeUsageSize", "buildkit.mergeUsageInodes"
	h.mustMerge(t, "m", h.smallFiles(t)...)
	info, err := h.sn.Stat(h.ctx, "m")
	require.NoError(t, err)
	got, err := h.Snapshotter.Usage(h.ctx, "m")
	require.NoError(t, err)
	require.Equal(t, strconv.FormatInt(got.Size, 10), info.Labels[size])
	require.Equal(t, strconv.FormatInt(got.Inodes, 10), info.Labels[inodes])
	for _, tc := range []struct {
		labels map[string]string
		want   snapshots.Usage
	}{
		{map[string]string{size: "12", inodes: "34"}, snapshots.Usage{Size: 12, Inodes: 34}},
		{map[string]string{size: "12"}, snapshots.Usage{Size: 12}},
		{map[string]string{inodes: "34"}, snapshots.Usage{Inodes: 34}},
	} {
		_, err := h.sn.Update(h.ctx, snapshots.Info{Name: "layer-0", Labels: tc.labels})
		require.NoError(t, err)
		got, err := h.Snapshotter.Usage(h.ctx, "layer-0")
		require.NoError(t, err)
		require.Equal(t, tc.want, got)
	}
	_, err = h.sn.Update(h.ctx, snapshots.Info{Name: "layer-0", Labels: map[string]string{size: "much"}})
	require.NoError(t, err)
	_, err = h.Snapshotter.Usage(h.ctx, "layer-0")
	require.Error(t, err)
	_, err = h.sn.Update(h.ctx, snapshots.Info{Name: "layer-0"})
	require.NoError(t, err)
	plain, err := h.Snapshotter.Usage(h.ctx, "layer-0")
	require.NoError(t, err)
	require.Equal(t, int64(3), plain.Inodes, "without labels it is the snapshotter's")
	_, err = h.Snapshotter.Usage(h.ctx, "none")
	requireIs(t, err, errdefs.IsNotFound)
}

// checkMergeOptions: options are applied when the merge is committed, and are not written to (quirk Q55).
func checkMergeOptions(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) { write(t, root, "file", "one") })
	opts := make([]snapshots.Opt, 1, 4) // room that an append could write to
	opts[0] = snapshots.WithLabels(map[string]string{"colour": "red"})
	h.hold(t, "m")
	require.NoError(t, h.Snapshotter.Merge(h.free, "m", []snapshot.Diff{{}, {Upper: "one"}}, opts...))
	require.Nil(t, opts[:2][1], "the caller's options were written to")
	info, err := h.sn.Stat(h.ctx, "m")
	require.NoError(t, err)
	require.Equal(t, "red", info.Labels["colour"])
	require.NotEmpty(t, info.Labels["buildkit.mergeUsageInodes"], "beside the labels of Merge")
}

func checkMergeMissing(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) { write(t, root, "file", "one") })
	h.prepare(t, "active", "one", nil)
	before := h.keys(t)
	for name, diffs := range map[string][]snapshot.Diff{
		"upper": {{Upper: "one"}, {Upper: "none"}}, "lower": {{Upper: "one"}, {Lower: "none", Upper: "one"}},
		"first": {{Upper: "none"}}, "only a lower": {{}, {Lower: "none"}},
	} {
		err := h.Snapshotter.Merge(h.free, "m", diffs)
		require.Truef(t, errdefs.IsNotFound(err), "%s: %v", name, err)
		require.ErrorContains(t, err, "none", "it names what is missing")
	}
	err := h.Snapshotter.Merge(h.free, "", []snapshot.Diff{{Upper: "one"}})
	requireIs(t, err, errdefs.IsInvalidArgument)
	h.requireKeys(t, before)
	h.mustMerge(t, "m", snapshot.Diff{Upper: "one"})
}

// requireKeys fails unless exactly these snapshots are there, once garbage is collected.
func (h *mergeHarness) requireKeys(t *testing.T, want []string) {
	t.Helper()
	if h.CollectGarbage != nil {
		require.NoError(t, h.CollectGarbage(h.free))
	}
	require.ElementsMatch(t, want, h.keys(t))
}

// checkMergeTaken: the key of a merge is as any other (spec MRG-4).
func checkMergeTaken(t *testing.T, h *mergeHarness) {
	h.commit(t, "one", "", func(root string) { write(t, root, "file", "one") })
	h.commit(t, "two", "", func(root string) { write(t, root, "file", "two") })
	h.prepare(t, "active", "one", nil)
	want := h.look(t, "one")
	before := h.keys(t)
	for _, key := range []string{"one", "active"} {
		requireIs(t, h.Snapshotter.Merge(h.free, key, []snapshot.Diff{{}, {Upper: "two"}}), errdefs.IsAlreadyExists)
	}
	h.requireKeys(t, before)
	require.Equal(t, want, h.view(t, "again", "one"))
	require.Equal(t, snapshots.KindActive, h.kind(t, "active"))
}

func checkMergeCancelled(t *testing.T, h *mergeHarness) {
	diffs := h.smallFiles(t)
	before := h.keys(t)
	ctx, cancel := context.WithCancel(h.free)
	cancel()
	require.ErrorIs(t, h.Snapshotter.Merge(ctx, "m", diffs), context.Canceled)
	h.requireKeys(t, before)
	h.mustMerge(t, "m", diffs...)
}

func checkMergeConcurrently(t *testing.T, h *mergeHarness) {
	diffs := h.smallFiles(t)
	for i := range parallel {
		h.hold(t, fmt.Sprintf("m-%d", i))
	}
	for _, err := range together(func(i int) error { return h.Snapshotter.Merge(h.free, fmt.Sprintf("m-%d", i), diffs) }) {
		require.NoError(t, err)
	}
	want := h.look(t, "m-0")
	for i := 1; i < parallel; i++ {
		require.Equal(t, want, h.look(t, fmt.Sprintf("m-%d", i)))
	}
	h.hold(t, "same")
	winner(t, together(func(int) error { return h.Snapshotter.Merge(h.free, "same", diffs) }))
	require.Equal(t, want, h.look(t, "same"))
}

// checkMergeHoldsNothing: what a merge needs for itself is gone when it returns, and its lease, too (spec MRG-4).
func checkMergeHoldsNothing(t *testing.T, h *mergeHarness) {
	diffs := h.smallFiles(t)
	before := h.keys(t)
	h.mustMerge(t, "m", diffs...)
	all, err := h.Leases.List(h.free)
	require.NoError(t, err)
	require.Len(t, all, 1, "a temporary lease stayed")
	h.requireKeys(t, append(before, "m"))
	require.NoError(t, h.Snapshotter.Merge(h.free, "unheld", diffs))
	h.requireKeys(t, append(before, "m"))
}

// checkMergeUnderLease: with a lease in the context it is this one that holds the result, and nothing else of the merge (spec MRG-4).
func checkMergeUnderLease(t *testing.T, h *mergeHarness) {
	diffs := h.smallFiles(t)
	before := h.keys(t)
	l, err := h.Leases.Create(h.free, leases.WithID("another"))
	require.NoError(t, err)
	ctx := leases.WithLease(h.free, l.ID)
	require.NoError(t, h.Snapshotter.Merge(ctx, "m", diffs))
	h.requireKeys(t, append(before, "m"))
	all, err := h.Leases.List(h.free)
	require.NoError(t, err)
	require.Len(t, all, 2)
	requireIs(t, h.Snapshotter.Merge(ctx, "failed", append(diffs, snapshot.Diff{Upper: "none"})), errdefs.IsNotFound)
	h.requireKeys(t, append(before, "m"))
	require.NoError(t, h.Leases.Delete(h.free, l))
	h.requireKeys(t, before)
}

// checkMergeFailedLeavesNothing: of a merge that fails on the way, no snapshot and no lease is left, and it can be tried again (spec MRG-4).
func checkMergeFailedLeavesNothing(t *testing.T, h *mergeHarness) {
	diffs := h.smallFiles(t)
	before := h.keys(t)
	h.hold(t, "m")
	requireIs(t, h.Snapshotter.Merge(h.free, "m", append(diffs, snapshot.Diff{Lower: "none", Upper: "layer-0"})), errdefs.IsNotFound)
	h.requireKeys(t, before)
	all, err := h.Leases.List(h.free)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NoError(t, h.Snapshotter.Merge(h.free, "m", diffs))
	h.requireKeys(t, append(before, "m"))
}
