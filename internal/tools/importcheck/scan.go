package main

import (
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// importLine is one import in one file.
type importLine struct {
	pkg  string // importing package
	path string // imported path
	test bool   // stands in a _test.go file
	pos  string // file:line relative to the root
}

// source is what the scan of a tree found.
type source struct {
	module   string
	packages map[string]bool // packages with at least one .go file
	imports  []importLine
}

// scan reads the imports of every Go file below root, whatever its build constraints: a rule holds on all systems.
// Nested modules are included; their directories continue the path of the root module.
func scan(root, module string) (*source, error) {
	s := &source{module: module, packages: map[string]bool{}}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return errors.Wrap(err, "walk")
		}
		base := d.Name()
		if d.IsDir() {
			if name != root && (base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
			return nil
		}
		return s.addFile(root, name)
	})
	return s, err
}

func (s *source) addFile(root, name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return errors.Wrap(err, "read source")
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return errors.Wrap(err, "parse")
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if c.Pos() < f.Package && constraint.IsGoBuild(c.Text) && strings.TrimSpace(c.Text) == "//go:build ignore" {
				return nil // a program of its own that no build of the package contains
			}
		}
	}
	rel, err := filepath.Rel(root, name)
	if err != nil {
		return errors.Wrap(err, "relative path")
	}
	rel = filepath.ToSlash(rel)
	pkg := strings.TrimSuffix(path.Join(s.module, path.Dir(rel)), "/.")
	s.packages[pkg] = true
	for _, im := range f.Imports {
		p, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			return errors.Wrap(err, rel)
		}
		s.imports = append(s.imports, importLine{
			pkg: pkg, path: p, test: strings.HasSuffix(rel, "_test.go"),
			pos: rel + ":" + strconv.Itoa(fset.Position(im.Pos()).Line),
		})
	}
	return nil
}
