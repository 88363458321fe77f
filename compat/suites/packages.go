package suites

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"

	"github.com/pkg/errors"

	"github.com/layercache/cache/compat/overlay"
)

const (
	buildkitModule = "github.com/moby/buildkit/"
	// below this all packages are of interest: it is what drives the cache.
	solverDir = "solver/llbsolver"
	// what starts daemons for tests.
	integration = buildkitModule + "util/testutil/integration"
)

// Package is a package of BuildKit's that has tests.
type Package struct {
	// Path is relative to BuildKit's module, with slashes.
	Path string
	// Uses are the replaced packages that it or its tests import, sorted.
	Uses []string
	// Leaf tells that it declares a type that the overlay turns into an alias.
	Leaf bool
	// Integration tells that its tests import what starts daemons.
	Integration bool
}

// Why says in words why the package is run.
func (p Package) Why() string {
	switch {
	case len(p.Uses) > 0:
		return "imports " + strings.Join(p.Uses, ", ")
	case p.Leaf:
		return "has types that become aliases"
	default:
		return "is below " + solverDir
	}
}

// listed is what the go command tells of a package.
type listed struct {
	ImportPath                                                    string
	Imports, TestImports, XTestImports, TestGoFiles, XTestGoFiles []string
}

// Select returns the packages with tests of the workspace's BuildKit that have to do with the cache, and those left out because their
// tests do nothing but start daemons; both sorted by path. The replaced packages themselves are in neither: on ours they have no tests.
func Select(ctx context.Context, w *overlay.Workspace) (run, daemons []Package, err error) {
	cmd := w.Stock(ctx, "list", "-json=ImportPath,Imports,TestImports,XTestImports,TestGoFiles,XTestGoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, errors.Wrapf(err, "listing BuildKit's packages: %s", bytes.TrimSpace(stderr.Bytes()))
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, nil, errors.Wrap(err, "reading the list of BuildKit's packages")
		}
		p, chosen := choose(l)
		switch {
		case chosen:
			run = append(run, p)
		case p.Integration:
			daemons = append(daemons, p)
		}
	}
	byPath := func(a, b Package) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(run, byPath)
	slices.SortFunc(daemons, byPath)
	return run, daemons, nil
}

// choose tells what a package has to do with the cache, and whether its tests are run.
func choose(l listed) (Package, bool) {
	p := Package{Path: strings.TrimPrefix(l.ImportPath, buildkitModule)}
	replaced, leaves := overlay.Replaced(), overlay.Leaves()
	if len(l.TestGoFiles)+len(l.XTestGoFiles) == 0 || slices.Contains(replaced, p.Path) {
		return p, false
	}
	for _, imported := range slices.Concat(l.Imports, l.TestImports, l.XTestImports) {
		p.Integration = p.Integration || imported == integration
		if dir := strings.TrimPrefix(imported, buildkitModule); slices.Contains(replaced, dir) {
			p.Uses = append(p.Uses, dir)
		}
	}
	slices.Sort(p.Uses)
	p.Uses = slices.Compact(p.Uses)
	_, p.Leaf = leaves[p.Path]
	return p, len(p.Uses) > 0 || p.Leaf || p.Path == solverDir || strings.HasPrefix(p.Path, solverDir+"/")
}
