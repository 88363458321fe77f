package main

import (
	"go/ast"
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

// table maps a rule to the tests that name it, each as package.Test with the package relative to the module.
type table map[string]map[string]bool

// scan collects the rules named by tests below root, nested modules included. What counts is a comment or a string inside a
// function that takes a test's handle (or is an example) in a _test.go file or in a package of exported tests (…test).
// The checkers' own tests are left out: the ids in them are examples.
func scan(root string) (table, error) {
	t := table{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return errors.Wrap(err, "walk")
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return errors.Wrap(err, "relative path")
		}
		rel = filepath.ToSlash(rel)
		base := d.Name()
		if d.IsDir() {
			if rel == "internal/tools" || base == "testdata" || base == "vendor" || (rel != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_"))) {
				return filepath.SkipDir
			}
			return nil
		}
		suite := strings.HasSuffix(path.Base(path.Dir(rel)), "test") && strings.HasSuffix(base, ".go")
		if !suite && !strings.HasSuffix(base, "_test.go") {
			return nil
		}
		return errors.Wrap(t.addFile(name, path.Dir(rel)), rel)
	})
	return t, err
}

func (t table) addFile(name, dir string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return errors.Wrap(err, "read")
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return errors.Wrap(err, "parse")
	}
	pkg := dir
	if dir == "." {
		pkg = f.Name.Name
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil || !isTest(fn) {
			continue
		}
		ids, err := findIDs(wordsOf(f, fn))
		if err != nil {
			return errors.Wrap(err, fn.Name.Name)
		}
		for _, id := range ids {
			if t[id] == nil {
				t[id] = map[string]bool{}
			}
			t[id][pkg+"."+testName(fn)] = true
		}
	}
	return nil
}

// isTest tells whether a function is a test or a part of one.
func isTest(fn *ast.FuncDecl) bool {
	if strings.HasPrefix(fn.Name.Name, "Example") && fn.Type.Params.NumFields() == 0 {
		return true
	}
	for _, p := range fn.Type.Params.List {
		typ := p.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		sel, ok := typ.(*ast.SelectorExpr)
		if !ok {
			continue
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			continue
		}
		switch x.Name + "." + sel.Sel.Name {
		case "testing.T", "testing.F", "testing.TB", "rapid.T":
			return true
		}
	}
	return false
}

func testName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

// wordsOf joins the comments and string literals of a function, its doc comment included.
func wordsOf(f *ast.File, fn *ast.FuncDecl) string {
	var words []string
	if fn.Doc != nil {
		words = append(words, fn.Doc.Text())
	}
	for _, group := range f.Comments {
		if group.Pos() >= fn.Pos() && group.End() <= fn.End() {
			words = append(words, group.Text())
		}
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				words = append(words, s)
			}
		}
		return true
	})
	return strings.Join(words, "\n")
}
