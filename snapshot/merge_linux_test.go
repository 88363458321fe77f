package snapshot_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/tree"
)

// merger is a merge snapshotter to test, with what it reported.
type merger struct {
	snapshot.MergeSnapshotter
	backend snapshots.Snapshotter
	ctx     context.Context
	reports []snapshot.MergeReport
	serial  int
}

// newMerger wraps a snapshotter; caps replace those of its name unless they are nil.
func newMerger(t *testing.T, name string, sn snapshots.Snapshotter, caps *snapshot.Capabilities) *merger {
	t.Helper()
	m := &merger{ctx: t.Context(), backend: sn}
	m.MergeSnapshotter = snapshot.NewMergeSnapshotterWith(m.ctx, snapshot.FromContainerdSnapshotter(name, sn, nil), nil, snapshot.MergeOptions{
		Capabilities: caps,
		Report:       func(_ context.Context, r snapshot.MergeReport) { m.reports = append(m.reports, r) },
	})
	return m
}

// last is the report of the last merge.
func (m *merger) last() snapshot.MergeReport { return m.reports[len(m.reports)-1] }

// onAll runs a test on overlayfs, native, and both without links between snapshots.
func onAll(t *testing.T, test func(t *testing.T, m *merger)) {
	t.Helper()
	t.Run("overlayfs", func(t *testing.T) { test(t, newMerger(t, "overlayfs", openOverlay(t), nil)) })
	t.Run("native", func(t *testing.T) { test(t, newMerger(t, "native", openNative(t), nil)) })
	t.Run("overlayfs-copies", func(t *testing.T) {
		test(t, newMerger(t, "overlayfs", openOverlay(t), &snapshot.Capabilities{OverlayBased: true}))
	})
	t.Run("native-copies", func(t *testing.T) { test(t, newMerger(t, "native", openNative(t), &snapshot.Capabilities{})) })
}

// commit makes the committed snapshot name on parent, changed in its mounted tree.
func (m *merger) commit(t *testing.T, name, parent string, change func(root string)) {
	t.Helper()
	require.NoError(t, m.Prepare(m.ctx, name+"-active", parent))
	if change != nil {
		m.edit(t, name+"-active", change)
	}
	require.NoError(t, m.Commit(m.ctx, name, name+"-active"))
}

// layer is commit for a change that only adds entries.
func (m *merger) layer(t *testing.T, name, parent string, entries ...tree.Entry) {
	t.Helper()
	m.commit(t, name, parent, func(root string) { require.NoError(t, tree.Write(root, entries...)) })
}

// edit mounts the active snapshot or view key.
func (m *merger) edit(t *testing.T, key string, do func(root string)) {
	t.Helper()
	mounts, err := m.Mounts(m.ctx, key)
	require.NoError(t, err)
	lm := snapshot.LocalMounter(mounts)
	root, err := lm.Mount()
	require.NoError(t, err)
	defer func() { require.NoError(t, lm.Unmount()) }()
	do(root)
}

// look shows the tree of a committed snapshot, mounted read only.
func (m *merger) look(t *testing.T, name string, do func(root string)) {
	t.Helper()
	m.serial++
	key := fmt.Sprintf("%s-look-%d", name, m.serial)
	_, err := m.View(m.ctx, key, name)
	require.NoError(t, err)
	m.edit(t, key, do)
	require.NoError(t, m.Remove(m.ctx, key))
}

// read returns the tree of a committed snapshot without its root, which merges do not make (spec DIF-3).
func (m *merger) read(t *testing.T, name string) (got tree.Tree) {
	t.Helper()
	m.look(t, name, func(root string) {
		var err error
		got, err = tree.Read(root)
		require.NoError(t, err)
	})
	delete(got, ".")
	return got
}

// merge makes the snapshot name of diffs.
func (m *merger) merge(t *testing.T, name string, diffs ...snapshot.Diff) {
	t.Helper()
	require.NoError(t, m.Merge(m.ctx, name, diffs))
}

// TestMergeLayers: independent layers are put on top of one another (spec MRG-1).
func TestMergeLayers(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "a", "", tree.File("same", "a"), tree.File("dir/a", "a"), tree.Symlink("link", "nowhere"))
		m.layer(t, "b", "", tree.File("same", "b"), tree.File("dir/b", "b"))
		m.layer(t, "c", "b", tree.File("dir/c", "c"))
		m.merge(t, "merged", snapshot.Diff{Upper: "a"}, snapshot.Diff{Upper: "b"}, snapshot.Diff{Lower: "b", Upper: "c"})
		m.look(t, "merged", func(root string) {
			for path, content := range map[string]string{"same": "b", "dir/a": "a", "dir/b": "b", "dir/c": "c"} {
				data, err := os.ReadFile(filepath.Join(root, path))
				require.NoError(t, err)
				require.Equal(t, content, string(data), path)
			}
			target, err := os.Readlink(filepath.Join(root, "link"))
			require.NoError(t, err)
			require.Equal(t, "nowhere", target)
		})
		require.ErrorIs(t, m.Merge(m.ctx, "merged", nil), errdefs.ErrAlreadyExists)
	})
}

// topDir is the topmost directory of what mounts show.
func topDir(t *testing.T, mounts []mount.Mount) string {
	t.Helper()
	require.Len(t, mounts, 1)
	if mounts[0].Type != "overlay" {
		return mounts[0].Source
	}
	lower := ""
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir
		}
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lower, _, _ = strings.Cut(dirs, ":")
		}
	}
	return lower
}
