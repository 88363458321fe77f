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
	"golang.org/x/sys/unix"

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
			timed(b, func(n int) {
				require.NoError(b, ms.Merge(b.Context(), fmt.Sprint("merged-", n), benchDiffs()))
			}, func(n int) {
				require.NoError(b, ms.Remove(b.Context(), fmt.Sprint("merged-", n)))
			})
		})
	}
}

// BenchmarkMergeDiff applies the difference between one of the layers and a merge of all (bench.md row 14).
func BenchmarkMergeDiff(b *testing.B) {
	for name, snapshotter := range map[string]string{"overlay": "overlayfs", "native": "native"} {
		b.Run(name, func(b *testing.B) {
			ms := benchMerger(b, snapshotter, nil)
			require.NoError(b, ms.Merge(b.Context(), "merged", benchDiffs()))
			timed(b, func(n int) {
				require.NoError(b, ms.Merge(b.Context(), fmt.Sprint("diff-", n), []snapshot.Diff{{Lower: "L3", Upper: "merged"}}))
			}, func(n int) {
				require.NoError(b, ms.Remove(b.Context(), fmt.Sprint("diff-", n)))
			})
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
			to := func(n int) string { return filepath.Join(dir, fmt.Sprint("to-", n)) }
			timed(b, func(n int) {
				require.NoError(b, os.Mkdir(to(n), 0o755))
				for _, source := range sources {
					out, err := exec.CommandContext(b.Context(), "cp", flags, source, to(n)).CombinedOutput()
					require.NoError(b, err, "%s", out)
				}
			}, func(n int) { require.NoError(b, os.RemoveAll(to(n))) })
		})
	}
}

// cpuTime is what this process and its children have used.
func cpuTime(b *testing.B) (ns int64) {
	b.Helper()
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		require.NoError(b, unix.Getrusage(who, &u))
		ns += u.Utime.Nano() + u.Stime.Nano()
	}
	return ns
}

// timed runs work in b's loop, with clean-up outside of what is measured, and reports time per file; CPU time as well, which
// means something on a busy machine, too.
func timed(b *testing.B, work, cleanUp func(n int)) {
	b.Helper()
	var cpu int64
	n := 0
	for b.Loop() {
		before := cpuTime(b)
		work(n)
		cpu += cpuTime(b) - before
		b.StopTimer()
		cleanUp(n)
		n++
		b.StartTimer()
	}
	files := float64(b.N) * benchLayers * benchDirs * benchFiles
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/files, "ns/file")
	b.ReportMetric(float64(cpu)/files, "cpu-ns/file")
}
