package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// usage returns what a merge says it takes up, and what its topmost directory holds in files that nobody else has.
func (m *merger) usage(t *testing.T, name string) (said, counted snapshots.Usage) {
	t.Helper()
	said, err := m.Usage(m.ctx, name)
	require.NoError(t, err)
	m.inside(t, name, func(dir string) {
		counted.Inodes, counted.Size, err = tree.Occupied(dir)
		require.NoError(t, err)
	})
	return said, counted
}

// TestUsageOfThreeLayers: the numbers of the rule (spec MRG-6, scenario S-33).
func TestUsageOfThreeLayers(t *testing.T) {
	for name, inodes := range map[string]int64{"linked": 2, "copied": 6} {
		t.Run(name, func(t *testing.T) {
			caps := snapshot.Capabilities{HardlinkMerge: name == "linked"}
			m := newMerger(t, "native", openNative(t), &caps)
			for i := range 3 {
				entries := []tree.Entry{tree.File(fmt.Sprint("dir/file", i), "small")}
				if i == 2 {
					entries = append(entries, tree.File("empty", ""))
				}
				m.layer(t, fmt.Sprint("l", i), "", entries...)
			}
			m.merge(t, "merged", snapshot.Diff{Upper: "l0"}, snapshot.Diff{Upper: "l1"}, snapshot.Diff{Upper: "l2"})
			said, counted := m.usage(t, "merged")
			require.Equal(t, inodes, said.Inodes)
			require.Equal(t, counted, said)
			r := m.last()
			require.Equal(t, "merged", r.Key)
			require.Equal(t, 3, r.Applied)
			require.EqualValues(t, 4, r.Linked+r.Copied+r.Cloned)
			require.Equal(t, name == "linked", r.Linked == 4)
			require.NoError(t, r.NotLinked)
		})
	}
}

// TestUsageIsWhatIsThere: what was replaced or removed later is not counted, marks are, and of several names one (spec MRG-6).
func TestUsageIsWhatIsThere(t *testing.T) {
	need.Root(t)
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "base", "", tree.File("old/file", "x"), tree.File("old/more", "x"))
		m.commit(t, "less", "base", func(root string) { require.NoError(t, os.Remove(filepath.Join(root, "old/file"))) })
		m.layer(t, "a", "", tree.File("big", string(make([]byte, 100000))), tree.File("d/e/f", "x"), tree.Fifo("fifo"), tree.File("l1", "l"), tree.Hardlink("l2", "l1"))
		m.layer(t, "b", "", tree.File("big", "small"), tree.File("d", "a file now"), tree.Dir("fifo"), tree.File("l2", "m"))
		m.merge(t, "merged", snapshot.Diff{Upper: "base"}, snapshot.Diff{Upper: "a"}, snapshot.Diff{Lower: "base", Upper: "less"}, snapshot.Diff{Upper: "b"})
		said, counted := m.usage(t, "merged")
		require.Equal(t, counted, said)
		require.ElementsMatch(t, []string{"old", "old/more", "big", "d", "fifo", "l1", "l2"}, paths(m.read(t, "merged")))
	})
}

// TestUsageLabels: Usage believes the labels, one that is missing is 0, nonsense is an error, and without any the snapshotter is asked (spec MRG-5).
func TestUsageLabels(t *testing.T) {
	const size, inodes = "buildkit.mergeUsageSize", "buildkit.mergeUsageInodes"
	m := newMerger(t, "native", openNative(t), nil)
	m.layer(t, "a", "", tree.File("f", "x"))
	m.merge(t, "merged", snapshot.Diff{Upper: "a"})
	info, err := m.Stat(m.ctx, "merged")
	require.NoError(t, err)
	said, counted := m.usage(t, "merged")
	require.Equal(t, counted, said)
	require.Equal(t, fmt.Sprint(said.Size), info.Labels[size])
	require.Equal(t, fmt.Sprint(said.Inodes), info.Labels[inodes])

	for _, test := range []struct {
		labels map[string]string
		want   snapshots.Usage
		err    string
	}{
		{labels: map[string]string{size: "7", inodes: "3"}, want: snapshots.Usage{Size: 7, Inodes: 3}},
		{labels: map[string]string{size: "7"}, want: snapshots.Usage{Size: 7}},
		{labels: map[string]string{inodes: "3"}, want: snapshots.Usage{Inodes: 3}},
		{labels: map[string]string{inodes: "many"}, err: inodes},
		{labels: map[string]string{size: "1e3", inodes: "3"}, err: size},
	} {
		info.Labels = test.labels
		_, err := m.Update(m.ctx, info)
		require.NoError(t, err)
		got, err := m.Usage(m.ctx, "merged")
		if test.err != "" {
			require.ErrorContains(t, err, test.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, test.want, got)
	}
	own, err := m.backend.Usage(m.ctx, "a")
	require.NoError(t, err)
	got, err := m.Usage(m.ctx, "a")
	require.NoError(t, err)
	require.Equal(t, own, got)
	_, err = m.Usage(m.ctx, "none")
	require.Error(t, err)
}

// TestTooManyLinks: a file that has as many names as its filesystem allows is copied, and counted as far as it was; what could be linked
// is not (fault 40, spec APP-5, MRG-7, quirk Q56).
func TestTooManyLinks(t *testing.T) {
	m := newMerger(t, "native", openNative(t), nil)
	m.layer(t, "a", "", tree.File("full", "x", tree.Time(oddTime)), tree.File("free", "y"))
	m.inside(t, "a", func(dir string) {
		outside := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(dir))), "outside")
		require.NoError(t, os.Mkdir(outside, 0o700))
		const most = 66000 // ext4 takes 65000
		for i := range most {
			err := os.Link(filepath.Join(dir, "full"), filepath.Join(outside, fmt.Sprint(i)))
			if err != nil {
				require.ErrorIs(t, err, unix.EMLINK)
				return
			}
		}
		t.Skip("this filesystem takes any number of links; the double does it")
	})
	m.merge(t, "merged", snapshot.Diff{Upper: "a"})
	require.ErrorIs(t, m.last().NotLinked, unix.EMLINK)
	require.EqualValues(t, 1, m.last().Copied)
	require.EqualValues(t, 1, m.last().Linked)
	said, counted := m.usage(t, "merged")
	require.Equal(t, counted, said)
	require.EqualValues(t, 2, said.Inodes)
	require.Empty(t, tree.Diff(m.read(t, "a"), m.read(t, "merged")))
}
