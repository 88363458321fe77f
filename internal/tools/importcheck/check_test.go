package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "example.org/m"

// tree writes files below a fresh directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		full := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o700))
		require.NoError(t, os.WriteFile(full, []byte(text), 0o600))
	}
	return root
}

func file(pkg string, imports ...string) string {
	text := "package " + pkg + "\n"
	for _, im := range imports {
		text += "import _ \"" + im + "\"\n"
	}
	return text
}

// cleanTree has one package for each that the rules bind, and breaks none of them.
func cleanTree() map[string]string {
	return map[string]string{
		"manager.go":                      file("cache", module+"/internal/graph", module+"/snapshot", "github.com/containerd/containerd/v2/core/snapshots"),
		"manager_test.go":                 file("cache", "github.com/containerd/containerd/v2/core/metadata", module+"/testutil", "github.com/stretchr/testify/require"),
		"internal/graph/graph.go":         file("graph", "sync", "github.com/pkg/errors"),
		"internal/flight/flight.go":       file("flight", "context"),
		"internal/pruneplan/plan.go":      file("pruneplan", "container/heap", "github.com/containerd/errdefs"),
		"internal/treediff/walk.go":       file("treediff", "os"),
		"internal/treemerge/merge.go":     file("treemerge", module+"/internal/treediff"),
		"internal/overlaymounts/m.go":     file("overlaymounts", module+"/internal/treediff"),
		"session/session.go":              file("session", "context"),
		"progress/progress.go":            file("progress", "context"),
		"usage/usage.go":                  file("usage", "time"),
		"usage/usage_test.go":             file("usage", "os"),
		"mountable/mountable.go":          file("mountable", "github.com/moby/sys/user"),
		"compression/compression.go":      file("compression", "github.com/containerd/containerd/v2/core/content"),
		"remote/remote.go":                file("remote", module+"/compression"),
		"metadata/store.go":               file("metadata", "go.etcd.io/bbolt", "os"),
		"snapshot/snapshot.go":            file("snapshot", "os", module+"/mountable"),
		"snapshot/snapshottest/suite.go":  file("snapshottest", "testing", "github.com/stretchr/testify/require"),
		"local/local.go":                  file("local", "github.com/containerd/containerd/v2/plugins/snapshots/native", module),
		"examples/quickstart/main.go":     file("main", module+"/local"),
		"testutil/fixture.go":             file("testutil", module+"/local", "testing"),
		"bench/main.go":                   file("main", "github.com/moby/buildkit/cache"),
		"metadata/testdata/ignored/ok.go": file("ok", "github.com/moby/buildkit/cache"),
		"gen.go":                          "//go:build ignore\n\n" + file("main", "github.com/moby/buildkit/cache"),
	}
}

func TestCleanTree(t *testing.T) {
	s, err := scan(tree(t, cleanTree()), module)
	require.NoError(t, err)
	require.Empty(t, check(s, rules))
	require.True(t, s.packages[module] && s.packages[module+"/bench"])
}

func TestViolations(t *testing.T) {
	for _, tc := range []struct{ name, file, text, want string }{
		{"a leaf does I/O", "internal/graph/io.go", file("graph", "os"), "leaf packages stay leaves"},
		{"a leaf does I/O on another system", "internal/flight/f_windows.go", file("flight", "golang.org/x/sys/windows"), "leaf packages stay leaves"},
		{"a leaf sees the module", "usage/up.go", file("usage", module+"/session"), "leaf packages stay leaves"},
		{"the plan asks for the time", "internal/pruneplan/now.go", file("pruneplan", "time"), "the plan of a prune is pure"},
		{"the plan has a dependency", "internal/pruneplan/dep.go", file("pruneplan", "go.etcd.io/bbolt"), "the plan of a prune is pure"},
		{"a client type has a dependency", "session/dep.go", file("session", "github.com/pkg/errors"), "client types cost nothing"},
		{"mountable grows", "mountable/dep.go", file("mountable", "github.com/pkg/errors"), "mountable is light"},
		{"a codec among the types", "compression/zstd.go", file("compression", "github.com/klauspost/compress/zstd"), "compression and remote are light"},
		{"metadata sees snapshots", "metadata/up.go", file("metadata", module+"/snapshot"), "metadata sees neither"},
		{"metadata sees the manager", "metadata/up.go", file("metadata", module), "metadata sees neither"},
		{"snapshot sees metadata", "snapshot/containerd/up.go", file("containerd", module+"/metadata"), "snapshot sees neither"},
		{"snapshot sees the manager", "snapshot/up.go", file("snapshot", module), "snapshot sees neither"},
		{"a walk sees snapshots", "internal/treediff/up.go", file("treediff", module+"/snapshot"), "trees know no snapshots"},
		{"BuildKit in a test", "snapshot/bk_test.go", file("snapshot", "github.com/moby/buildkit/snapshot"), "BuildKit stays outside"},
		{"BuildKit in a constrained file", "bk.go", "//go:build compare\n\n" + file("cache", "github.com/moby/buildkit"), "BuildKit stays outside"},
		{"the metadata database in the root", "heavy.go", file("cache", "github.com/containerd/containerd/v2/core/metadata"), "heavy containerd parts"},
		{"a snapshotter in a command", "cmd/x/main.go", file("main", "github.com/containerd/containerd/v2/plugins/snapshots/overlay"), "heavy containerd parts"},
		{"the content store in the seam", "snapshot/cs.go", file("snapshot", "github.com/containerd/containerd/v2/plugins/content/local"), "heavy containerd parts"},
		{"doubles in the library", "local/fake.go", file("local", module+"/testutil"), "test support stays in tests"},
		{"an assertion library in the library", "assert.go", file("cache", "github.com/stretchr/testify/require"), "test support stays in tests"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := cleanTree()
			files[tc.file] = tc.text
			s, err := scan(tree(t, files), module)
			require.NoError(t, err)
			bad := check(s, rules)
			require.NotEmpty(t, bad)
			for _, b := range bad {
				require.Contains(t, b, tc.file+":")
			}
			require.Contains(t, bad[0]+bad[len(bad)-1], tc.want)
		})
	}
}

func TestARuleThatBindsNothingFails(t *testing.T) {
	files := cleanTree()
	delete(files, "internal/flight/flight.go")
	s, err := scan(tree(t, files), module)
	require.NoError(t, err)
	require.Equal(t, []string{`rule "leaf packages stay leaves" binds ./internal/flight, and there is no such package: the rule checks nothing`}, check(s, rules))
}

func TestBrokenSourceIsAnError(t *testing.T) {
	_, err := scan(tree(t, map[string]string{"a.go": "packag x"}), module)
	require.Error(t, err)
}

func TestCheckModules(t *testing.T) {
	require.Empty(t, checkModules([]string{"github.com/containerd/containerd/v2", "go.etcd.io/bbolt"}, heavyModules))
	require.Len(t, checkModules([]string{"github.com/moby/buildkit", "github.com/distribution/distribution/v3"}, heavyModules), 2)
	require.Len(t, checkModules(nil, heavyModules), 1)
}

func TestCheckLimit(t *testing.T) {
	l := limit{pkg: ".", packages: 2, forbid: []string{"x.org/heavy/..."}}
	require.Empty(t, checkLimit(module, l, []string{"x.org/a", "x.org/b"}))
	require.Len(t, checkLimit(module, l, []string{"x.org/a", "x.org/b", "x.org/c"}), 1)
	require.Len(t, checkLimit(module, l, []string{"x.org/heavy/sub"}), 1)
	require.Len(t, checkLimit(module, l, nil), 1)
}

// TestReadsThisModule runs the go command's part on the real go.mod and on a package that is always there.
func TestReadsThisModule(t *testing.T) {
	mod, required, err := goMod(filepath.Join("..", "..", ".."))
	require.NoError(t, err)
	require.Equal(t, "github.com/layercache/cache", mod)
	require.Contains(t, required, "go.etcd.io/bbolt")
	graph, err := importGraph(filepath.Join("..", "..", ".."), "./usage")
	require.NoError(t, err)
	require.Equal(t, []string{"github.com/layercache/cache/usage"}, graph)
	_, err = importGraph(filepath.Join("..", "..", ".."), "./no/such/package")
	require.Error(t, err)
}
