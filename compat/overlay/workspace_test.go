package overlay

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// TestWrite looks at a workspace: what the overlay names is there, BuildKit is reached through a link and not changed, and a second
// Write gives the same.
func TestWrite(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	w, err := Write(ctx, Options{Dir: dir})
	require.NoError(t, err)
	require.Nil(t, w.Changes)
	require.Equal(t, pristine(t), w.BuildKit)
	dt, err := os.ReadFile(w.Overlay)
	require.NoError(t, err)
	var overlay struct{ Replace map[string]string }
	require.NoError(t, json.Unmarshal(dt, &overlay))
	require.Len(t, overlay.Replace, len(w.Removed)+len(w.Added)+len(w.Rewritten))
	for _, name := range w.Removed {
		require.FileExists(t, filepath.Join(w.BuildKit, name))
		by, ok := overlay.Replace[filepath.Join(dir, "buildkit", name)]
		require.True(t, ok && by == "", name)
	}
	for _, name := range w.Added {
		require.NoFileExists(t, filepath.Join(w.BuildKit, name))
		require.FileExists(t, overlay.Replace[filepath.Join(dir, "buildkit", name)])
	}
	for _, name := range w.Rewritten {
		require.FileExists(t, filepath.Join(w.BuildKit, name))
		require.FileExists(t, overlay.Replace[filepath.Join(dir, "buildkit", name)])
	}
	again, err := Write(ctx, Options{Dir: dir})
	require.NoError(t, err)
	require.Equal(t, w, again)
	second, err := os.ReadFile(w.Overlay)
	require.NoError(t, err)
	require.Equal(t, dt, second)
}

// TestWriteRefuses has directories and versions that are none.
func TestWriteRefuses(t *testing.T) {
	ctx := context.Background()
	_, err := Write(ctx, Options{Dir: t.TempDir(), Library: t.TempDir()})
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	_, err = Write(ctx, Options{Dir: t.TempDir(), BuildKit: t.TempDir()})
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	_, err = Write(ctx, Options{Dir: t.TempDir(), BuildKit: "v0.0.0-not a version"})
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	_, err = Fork(ctx, ForkOptions{Dir: filepath.Join(t.TempDir(), "missing")})
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)

	broken := checkout(t, seen()...)
	edit(t, filepath.Join(broken, "solver/types.go"), "package solver", "package")
	_, err = Write(ctx, Options{Dir: t.TempDir(), BuildKit: broken})
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// TestImports asks the go command which packages buildkitd is made of: BuildKit's own paths, the library below them, and nothing that a
// replaced package brought along.
func TestImports(t *testing.T) {
	w, err := Write(context.Background(), Options{Dir: t.TempDir()})
	require.NoError(t, err)
	out, err := w.Go(context.Background(), "list", "-deps", "-f", "{{.ImportPath}} {{.Imports}}", "./cmd/buildkitd").Output()
	require.NoError(t, err)
	imports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		pkg, list, _ := strings.Cut(strings.TrimSpace(line), " ")
		imports[pkg] = list
	}
	for _, dir := range seen() {
		require.Contains(t, imports[buildkitModule+"/"+dir], libraryModule, dir)
	}
	require.NotContains(t, imports[buildkitModule+"/snapshot"], "continuity")
	require.Contains(t, imports, libraryModule+"/metadata")
}
