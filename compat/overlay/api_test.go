package overlay

import (
	"context"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// pristine returns where BuildKit lies, as the go command keeps it.
func pristine(t *testing.T) string {
	t.Helper()
	dir, err := buildkitDir(context.Background(), "")
	require.NoError(t, err)
	return dir
}

// checkout copies BuildKit's module, or only the named directories of it, to where it can be written.
func checkout(t *testing.T, dirs ...string) string {
	t.Helper()
	from, to := pristine(t), t.TempDir()
	if len(dirs) == 0 {
		require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	} else {
		for _, file := range append(goFiles(t, from, dirs...), "go.mod", "go.sum") {
			dt, err := os.ReadFile(filepath.Join(from, file))
			require.NoError(t, err)
			require.NoError(t, writeFile(filepath.Join(to, file), dt))
		}
	}
	require.NoError(t, filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	}))
	return to
}

func goFiles(t *testing.T, root string, dirs ...string) []string {
	t.Helper()
	var names []string
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		require.NoError(t, err)
		for _, file := range found {
			names = append(names, filepath.Join(dir, filepath.Base(file)))
		}
	}
	return names
}

// seen are the directories that the generator looks at.
func seen() []string { return append(slices.Clone(replaced), leafDirs()...) }

// edit replaces a text that must be there.
func edit(t *testing.T, path, from, to string) {
	t.Helper()
	dt, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(dt), from)
	require.NoError(t, os.Remove(path)) // it may be read-only
	require.NoError(t, writeFile(path, []byte(strings.Replace(string(dt), from, to, 1))))
}

// TestKnown compares what is known with BuildKit itself: the list is of that version, and no line of it is made up.
func TestKnown(t *testing.T) {
	var b strings.Builder
	require.NoError(t, Describe(context.Background(), Version, &b))
	var known []string
	for line := range strings.Lines(knownText) {
		if !strings.HasPrefix(line, "#") {
			known = append(known, line)
		}
	}
	require.Equal(t, strings.Join(known, ""), b.String())
}

// TestComplete compares names: what BuildKit exports from a package that is replaced has an alias, and so has every leaf type.
func TestComplete(t *testing.T) {
	library, err := libraryDir("")
	require.NoError(t, err)
	// Constants of a type that BuildKit does not export and that nothing exported takes or returns.
	forgone := []string{"cache.BaseLayer", "cache.Diff", "cache.Layer", "cache.Merge"}
	for _, dir := range seen() {
		theirs, err := readPackage(token.NewFileSet(), filepath.Join(pristine(t), dir))
		require.NoError(t, err)
		ours, err := readPackage(token.NewFileSet(), filepath.Join(library, aliasDir, dir))
		require.NoError(t, err)
		want := topNames(theirs)
		if leaves[dir] != nil {
			want = slices.Sorted(slices.Values(leaves[dir]))
		}
		want = slices.DeleteFunc(want, func(name string) bool { return slices.Contains(forgone, dir+"."+name) })
		require.Equal(t, want, topNames(ours), dir)
	}
}

// topNames returns what the files of a package export, but for methods.
func topNames(files []*source) []string {
	names := map[string]bool{}
	for _, f := range files {
		if f.test() {
			continue
		}
		for _, decl := range f.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					names[d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch x := s.(type) {
					case *ast.TypeSpec:
						names[x.Name.Name] = true
					case *ast.ValueSpec:
						for _, name := range x.Names {
							names[name.Name] = true
						}
					}
				}
			}
		}
	}
	return slices.DeleteFunc(keys(names), func(name string) bool { return !ast.IsExported(name) })
}

// forked are the ways in which a fork may have changed what counts.
var forked = []struct {
	name             string
	change           func(t *testing.T, dir string)
	missing, unknown []string
}{
	{
		"a method more",
		func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "cache/refs.go"), "Clone() ImmutableRef\n", "Clone() ImmutableRef\n\tPin(ctx context.Context, n int) error\n")
		},
		nil,
		[]string{"cache: ImmutableRef.Pin(context.Context, int) error"},
	},
	{
		"another field type",
		func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "client/prune.go"), "KeepDuration time.Duration `json", "KeepDuration int64 `json")
		},
		[]string{"client: PruneInfo.KeepDuration time.Duration `json:\"keepDuration\"`"},
		[]string{"client: PruneInfo.KeepDuration int64 `json:\"keepDuration\"`"},
	},
	{
		"a leaf type that is gone",
		func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "executor/executor.go"), "type MountableRef interface", "type Mounted interface")
		},
		[]string{
			"executor: MountableRef.IdentityMapping() *user.IdentityMapping", "executor: MountableRef.Mount() ([]mount.Mount, func() error, error)",
			"executor: type MountableRef interface",
		},
		nil,
	},
	{
		"a method of a leaf type that nobody else sees",
		func(t *testing.T, dir string) {
			require.NoError(t, writeFile(filepath.Join(dir, "util/compression/more.go"), []byte("package compression\n\nfunc (c *Config) fast() bool { return false }\n")))
		},
		nil,
		[]string{"util/compression: (*Config).fast() bool"},
	},
	{
		"a package that is gone",
		func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "cache/config"))) },
		[]string{
			"cache/config: RefConfig.Compression compression.Config", "cache/config: RefConfig.PreferNonDistributable bool",
			"cache/config: type RefConfig struct",
		},
		nil,
	},
	{
		"what is not exported does not count, nor do names of parameters",
		func(t *testing.T, dir string) {
			require.NoError(t, writeFile(filepath.Join(dir, "cache/more.go"), []byte("package cache\n\nfunc more(m *immutableRef) {}\n\nfunc (*immutableRef) More() {}\n")))
			edit(t, filepath.Join(dir, "cache/manager.go"), "func IsNotFound(err error)", "func IsNotFound(e error)")
		},
		nil, nil,
	},
}

// TestChanged changes a BuildKit in each of these ways, and is told exactly that.
func TestChanged(t *testing.T) {
	ctx := context.Background()
	for _, tc := range forked {
		t.Run(tc.name, func(t *testing.T) {
			dir, out := checkout(t, seen()...), filepath.Join(t.TempDir(), "out")
			tc.change(t, dir)
			_, err := Write(ctx, Options{Dir: out, BuildKit: dir})
			if tc.missing == nil && tc.unknown == nil {
				require.NoError(t, err)
				return
			}
			var changed *ChangedError
			require.ErrorAs(t, err, &changed)
			require.Equal(t, &ChangedError{BuildKit: dir, Missing: tc.missing, Unknown: tc.unknown}, changed)
			require.True(t, errdefs.IsFailedPrecondition(err))
			for _, line := range tc.missing {
				require.ErrorContains(t, err, "\n- "+line)
			}
			for _, line := range tc.unknown {
				require.ErrorContains(t, err, "\n+ "+line)
			}
			require.NoDirExists(t, out)

			w, err := Write(ctx, Options{Dir: out, BuildKit: dir, AcceptChanges: true})
			require.NoError(t, err)
			require.Equal(t, changed, w.Changes)
		})
	}
}
