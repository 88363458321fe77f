package overlay

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/subset"
)

// run runs a command and returns what it printed. It skips the test where the command needed a network and there is none.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if line := offline.FindString(stderr.String()); line != "" {
			t.Skipf("a module is neither in the module cache nor to be had: %s", line)
		}
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, stderr.String())
	}
	return string(out)
}

// offline finds what the go command says when it cannot reach a module proxy.
var offline = regexp.MustCompile(`(?m)^.*(GOPROXY=off|dial tcp|no such host|connection refused|network is unreachable|i/o timeout).*$`)

// programs builds buildkitd and buildctl, and looks whether they run and contain the library.
func programs(t *testing.T, bin string, build *exec.Cmd) {
	t.Helper()
	run(t, build)
	for _, name := range []string{"buildkitd", "buildctl"} {
		require.Regexp(t, `(?m)^`+name+` github.com/moby/buildkit `, run(t, exec.Command(filepath.Join(bin, name), "--version")))
	}
	require.Regexp(t, `(?m)^\s+dep\s+github.com/layercache/cache\s`, run(t, exec.Command("go", "version", "-m", filepath.Join(bin, "buildkitd"))))
}

// TestBuild builds both programs of BuildKit, as it lies in the module cache, on the library.
func TestBuild(t *testing.T) {
	ctx, bin := context.Background(), t.TempDir()
	w, err := Write(ctx, Options{Dir: t.TempDir()})
	require.NoError(t, err)
	programs(t, bin, w.Go(ctx, "build", "-o", bin+"/", "./cmd/buildkitd", "./cmd/buildctl"))
}

// TestUsers type-checks every package of BuildKit that imports a package which is replaced, tests included, and those which have leaves.
func TestUsers(t *testing.T) {
	subset.Skip(t)
	ctx := context.Background()
	w, err := Write(ctx, Options{Dir: t.TempDir()})
	require.NoError(t, err)
	list := run(t, w.Go(ctx, "list", "-f", "{{.ImportPath}} {{.Imports}} {{.TestImports}} {{.XTestImports}}", "./..."))
	users := seen()
	for line := range strings.Lines(list) {
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" []\n", r) })
		pkg := strings.TrimPrefix(words[0], buildkitModule+"/")
		if !slices.Contains(users, pkg) && slices.ContainsFunc(words[1:], isReplaced) {
			users = append(users, pkg)
		}
	}
	for _, known := range []string{"cache/contenthash", "exporter/local", "solver/llbsolver/mounts", "source/git", "worker/base", "worker/runc"} {
		require.Contains(t, users, known)
	}
	for i := range users {
		users[i] = "./" + users[i]
	}
	// One check alone: what vet thinks of BuildKit's code is not the question.
	run(t, w.Go(ctx, "vet", append([]string{"-assign"}, users...)...))
	run(t, w.Go(ctx, "vet", "-assign", "-tags", "nydus", "./cache", "./exporter/containerimage"))
}

func isReplaced(imported string) bool {
	return slices.Contains(replaced, strings.TrimPrefix(imported, buildkitModule+"/"))
}

// TestFork changes a copy of BuildKit for good, vendors its modules, and builds both programs of what is vendored.
func TestFork(t *testing.T) {
	subset.Skip(t)
	ctx, dir, bin := context.Background(), checkout(t), t.TempDir()
	changes, err := Fork(ctx, ForkOptions{Dir: dir, Standins: true})
	require.NoError(t, err)
	require.Nil(t, changes.Changes)
	for _, name := range changes.Removed {
		require.NoFileExists(t, filepath.Join(dir, name))
	}
	for _, name := range append(changes.Added, changes.Rewritten...) {
		require.FileExists(t, filepath.Join(dir, name))
	}
	run(t, goCommand(ctx, dir, "-mod=mod", "list", "-deps", "./...")) // puts go.mod and go.sum in order
	run(t, goCommand(ctx, dir, "", "mod", "vendor"))
	require.FileExists(t, filepath.Join(dir, "vendor", libraryModule, "manager.go"))
	programs(t, bin, goCommand(ctx, dir, "-mod=vendor", "build", "-trimpath", "-o", bin+"/", "./cmd/buildkitd", "./cmd/buildctl"))
}

// TestForkAgain: done a second time it removes and rewrites nothing, and brings alias files up to date.
func TestForkAgain(t *testing.T) {
	ctx, dir := context.Background(), checkout(t, seen()...)
	first, err := Fork(ctx, ForkOptions{Dir: dir})
	require.NoError(t, err)
	require.Len(t, first.Rewritten, 6)
	before := goFilesOf(t, dir)
	require.Contains(t, before["go.mod"], libraryModule+" => ")
	require.NoError(t, writeFile(filepath.Join(dir, first.Added[0]), []byte("package old\n")))
	require.NoError(t, writeFile(filepath.Join(dir, "cache/layercache_old.go"), []byte("package cache\n")))
	require.NoError(t, writeFile(filepath.Join(dir, "solver/layercache_old.go"), []byte("package solver\n")))
	again, err := Fork(ctx, ForkOptions{Dir: dir})
	require.NoError(t, err)
	require.Nil(t, again.Changes)
	require.Equal(t, first.Added, again.Added)
	require.Equal(t, []string{"cache/layercache_old.go", "solver/layercache_old.go"}, again.Removed)
	require.Empty(t, again.Rewritten)
	require.Equal(t, before, goFilesOf(t, dir))

	third, err := Fork(ctx, ForkOptions{Dir: dir, Require: "v1.2.3"})
	require.NoError(t, err)
	require.Empty(t, third.Removed)
	dt, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(dt), libraryModule+" v1.2.3")
	require.NotContains(t, string(dt), libraryModule+" => ")
}

// goFilesOf returns what the directories hold that the generator writes to, and go.mod.
func goFilesOf(t *testing.T, root string) map[string]string {
	t.Helper()
	content := map[string]string{}
	for _, name := range append(goFiles(t, root, seen()...), "go.mod") {
		dt, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		content[name] = string(dt)
	}
	return content
}
