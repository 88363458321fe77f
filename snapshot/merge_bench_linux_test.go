package snapshot_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/need"
)

// What row 13 of the comparison with BuildKit merges.
const (
	benchLayers = 5
	benchDirs   = 50
	benchFiles  = 100 // in each directory
	benchBytes  = 4 << 10
)

// benchMerger opens a snapshotter with layers L0 to L4, on the disk that TMPDIR is on.
func benchMerger(b *testing.B, name string, caps *snapshot.Capabilities) snapshot.MergeSnapshotter {
	b.Helper()
	var sn snapshots.Snapshotter
	var err error
	if name == "overlayfs" {
		need.Overlay(b)
		sn, err = overlay.NewSnapshotter(b.TempDir())
	} else {
		sn, err = native.NewSnapshotter(b.TempDir())
	}
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, sn.Close()) })
	ms := snapshot.NewMergeSnapshotterWith(b.Context(), snapshot.FromContainerdSnapshotter(name, sn, nil), nil, snapshot.MergeOptions{Capabilities: caps})
	for i := range benchLayers {
		key := fmt.Sprintf("L%d-active", i)
		require.NoError(b, ms.Prepare(b.Context(), key, ""))
		m, err := ms.Mounts(b.Context(), key)
		require.NoError(b, err)
		lm := snapshot.LocalMounter(m)
		root, err := lm.Mount()
		require.NoError(b, err)
		writeBenchTree(b, root, i)
		require.NoError(b, lm.Unmount())
		require.NoError(b, ms.Commit(b.Context(), fmt.Sprintf("L%d", i), key))
	}
	return ms
}

func writeBenchTree(b *testing.B, root string, layer int) {
	b.Helper()
	data := make([]byte, benchBytes)
	for d := range benchDirs {
		dir := filepath.Join(root, fmt.Sprintf("dir%02d", d))
		require.NoError(b, os.Mkdir(dir, 0o755))
		for f := range benchFiles {
			require.NoError(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d-%03d", layer, f)), data, 0o644))
		}
	}
}

func benchDiffs() (diffs []snapshot.Diff) {
	for i := range benchLayers {
		diffs = append(diffs, snapshot.Diff{Upper: fmt.Sprintf("L%d", i)})
	}
	return diffs
}

// BenchmarkMerge merges five layers of 5000 files each (bench.md row 13), without hard links between snapshots as well (row 15).
func BenchmarkMerge(b *testing.B) {
	for _, bm := range []struct {
		name, snapshotter string
		caps              *snapshot.Capabilities
	}{
		{"overlay", "overlayfs", nil},
		{"native", "native", nil},
		{"copies", "native", &snapshot.Capabilities{}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			ms := benchMerger(b, bm.snapshotter, bm.caps)
			diffs, n := benchDiffs(), 0
			for b.Loop() {
				name := fmt.Sprintf("merged-%d", n)
				n++
				require.NoError(b, ms.Merge(b.Context(), name, diffs))
				b.StopTimer()
				require.NoError(b, ms.Remove(b.Context(), name))
				b.StartTimer()
			}
			perFile(b, benchLayers*benchDirs*benchFiles)
		})
	}
}

// BenchmarkMergeDiff applies the difference between one of the layers and a merge of all (bench.md row 14).
func BenchmarkMergeDiff(b *testing.B) {
	for name, snapshotter := range map[string]string{"overlay": "overlayfs", "native": "native"} {
		b.Run(name, func(b *testing.B) {
			ms := benchMerger(b, snapshotter, nil)
			require.NoError(b, ms.Merge(b.Context(), "merged", benchDiffs()))
			n := 0
			for b.Loop() {
				name := fmt.Sprintf("diff-%d", n)
				n++
				require.NoError(b, ms.Merge(b.Context(), name, []snapshot.Diff{{Lower: "L3", Upper: "merged"}}))
				b.StopTimer()
				require.NoError(b, ms.Remove(b.Context(), name))
				b.StartTimer()
			}
			perFile(b, benchLayers*benchDirs*benchFiles)
		})
	}
}

// BenchmarkCp is what cp takes for the same trees: what a merge is measured by.
func BenchmarkCp(b *testing.B) {
	for name, flags := range map[string]string{"al": "-al", "a": "-a"} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			var sources []string
			for i := range benchLayers {
				source := filepath.Join(dir, fmt.Sprintf("L%d", i))
				require.NoError(b, os.Mkdir(source, 0o755))
				writeBenchTree(b, source, i)
				sources = append(sources, source+"/.")
			}
			n := 0
			for b.Loop() {
				to := filepath.Join(dir, fmt.Sprintf("to-%d", n))
				n++
				require.NoError(b, os.Mkdir(to, 0o755))
				for _, source := range sources {
					out, err := exec.CommandContext(b.Context(), "cp", flags, source, to).CombinedOutput()
					require.NoError(b, err, "%s", out)
				}
				b.StopTimer()
				require.NoError(b, os.RemoveAll(to))
				b.StartTimer()
			}
			perFile(b, benchLayers*benchDirs*benchFiles)
		})
	}
}

func perFile(b *testing.B, files int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(files), "ns/file")
}
