package overlay

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Version is the BuildKit for which the alias packages are complete.
const Version = "v0.34.1"

const (
	buildkitModule = "github.com/moby/buildkit"
	libraryModule  = "github.com/layercache/cache"
	// aliasDir is where the alias packages lie in a checkout of the library.
	aliasDir = "compat/alias"
	// prefix begins the names of alias files in BuildKit: they say where they come from, and do not meet BuildKit's own.
	prefix = "layercache_"
)

// replaced are the packages of which nothing stays.
var replaced = []string{"cache", "cache/config", "cache/metadata", "snapshot", "snapshot/containerd"}

// leaves are the types that become aliases in packages which stay.
var leaves = map[string][]string{
	"client":           {"DiskUsageInfo", "PruneInfo", "UsageInfo", "UsageRecordType"},
	"executor":         {"MountableRef"},
	"session":          {"Group", "Iterator"},
	"solver":           {"Remote"},
	"util/compression": {"Compressor", "Config", "Finalizer", "Type"},
}

// source is a Go file of BuildKit's.
type source struct {
	name string // in its directory
	dt   []byte
	ast  *ast.File
}

func (s *source) test() bool  { return strings.HasSuffix(s.name, "_test.go") }
func (s *source) alias() bool { return strings.HasPrefix(s.name, prefix) }

// readPackage reads the Go files of a directory, tests included and whatever they are built for. One that is not there has none.
func readPackage(fset *token.FileSet, dir string) ([]*source, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.WithStack(err)
	}
	var files []*source
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".go" {
			continue
		}
		path := filepath.Join(dir, e.Name())
		dt, err := os.ReadFile(path)
		if err != nil {
			return nil, errors.WithStack(err)
		}
		f, err := parser.ParseFile(fset, path, dt, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "not Go: %v", err)
		}
		files = append(files, &source{name: e.Name(), dt: dt, ast: f})
	}
	return files, nil
}

// plan is what becomes of BuildKit's files. Paths are relative to its module, with slashes.
type plan struct {
	remove  []string          // files that go
	rewrite map[string][]byte // files that stay, without some declarations
	add     map[string]string // new files, and which of the library's they are
}

// newPlan compares BuildKit with what is known, and works out what to do with it. Changes of BuildKit's are an error of type *ChangedError
// beside a complete plan, except where a type to be cut out is not there at all.
func newPlan(buildkit, library string) (*plan, error) {
	p := &plan{rewrite: map[string][]byte{}, add: map[string]string{}}
	fset := token.NewFileSet()
	var have []string
	skip := map[string]bool{} // has the aliases already
	for _, dir := range replaced {
		files, err := readPackage(fset, filepath.Join(buildkit, filepath.FromSlash(dir)))
		if err != nil {
			return nil, err
		}
		skip[dir] = hasAlias(files)
		have = append(have, describe(dir, files, nil)...)
		for _, f := range files {
			p.remove = append(p.remove, dir+"/"+f.name)
		}
	}
	for _, dir := range leafDirs() {
		files, err := readPackage(fset, filepath.Join(buildkit, filepath.FromSlash(dir)))
		if err != nil {
			return nil, err
		}
		if skip[dir] = hasAlias(files); skip[dir] {
			for _, f := range files {
				if f.alias() { // one of an older checkout, unless it is added again
					p.remove = append(p.remove, dir+"/"+f.name)
				}
			}
			continue
		}
		have = append(have, describe(dir, files, leaves[dir])...)
		for _, f := range files {
			dt, err := cut(fset, f, leaves[dir])
			if err != nil {
				return nil, errors.WithMessagef(err, "%s/%s", dir, f.name)
			}
			if dt != nil {
				p.rewrite[dir+"/"+f.name] = dt
			}
		}
	}
	if err := p.addAliases(library); err != nil {
		return nil, err
	}
	return p, compare(buildkit, have, skip)
}

// addAliases finds the files of the alias packages, and takes those that stay out of what is to be removed.
func (p *plan) addAliases(library string) error {
	for _, dir := range append(leafDirs(), replaced...) {
		files, err := readPackage(token.NewFileSet(), filepath.Join(library, aliasDir, filepath.FromSlash(dir)))
		if err != nil {
			return err
		}
		n := len(p.add)
		for _, f := range files {
			if !f.test() {
				p.add[dir+"/"+prefix+f.name] = filepath.Join(library, aliasDir, filepath.FromSlash(dir), f.name)
			}
		}
		if len(p.add) == n {
			return errors.Wrapf(errdefs.ErrNotFound, "%s has no alias package for %s", library, dir)
		}
	}
	keep := p.remove[:0]
	for _, name := range p.remove {
		if _, ok := p.add[name]; !ok {
			keep = append(keep, name)
		}
	}
	p.remove = keep
	return nil
}

func hasAlias(files []*source) bool {
	for _, f := range files {
		if f.alias() {
			return true
		}
	}
	return false
}

func leafDirs() []string { return keys(leaves) }

func keys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Replaced returns the packages of BuildKit's of which nothing stays, relative to its module, sorted.
func Replaced() []string { return slices.Clone(replaced) }

// Leaves returns the types that become aliases, sorted, by the package of BuildKit's that they are in.
func Leaves() map[string][]string {
	types := make(map[string][]string, len(leaves))
	for dir, names := range leaves {
		types[dir] = slices.Clone(names)
	}
	return types
}
