package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// TestExample: examples/containerd misses every layer in its first run and hits it in the second, another process, and takes back all
// that it made (design section 8).
func TestExample(t *testing.T) {
	d := Start(t)
	data := t.TempDir()
	program := filepath.Join(data, "example")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "..", "examples", "containerd")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	source := filepath.Join(data, "source")
	require.NoError(t, os.Mkdir(source, 0o755))
	testutil.WriteTree(t, source, tree.File("one", "1"), tree.Dir("two"), tree.File("two/file", "2"))

	run := func(args ...string) string {
		t.Helper()
		args = append([]string{"-address", d.Address, "-dir", filepath.Join(data, "records")}, append(args, source)...)
		out, err := exec.Command(program, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	first := run()
	require.Equal(t, 2, strings.Count(first, "layer   miss"), first)
	require.Contains(t, first, "merge   3 entries")
	require.Contains(t, first, "reach   direct")
	second := run("-prune")
	require.Equal(t, 2, strings.Count(second, "layer   hit"), second)
	require.Contains(t, second, "0 records are left")
	require.Empty(t, leasesIn(t, d, containerd.DefaultNamespace))
	require.Empty(t, snapshotsIn(t, d, containerd.DefaultNamespace, "overlayfs"))
}
