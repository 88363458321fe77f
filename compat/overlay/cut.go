package overlay

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// span is a part of a file, in bytes.
type span struct{ from, to int }

// cut returns a file without the declarations of some types and of their methods, and without the imports that only they needed; nil if it
// has none of them. Everything else is as it was, build tags and comments included.
func cut(fset *token.FileSet, f *source, types []string) ([]byte, error) {
	c := &cutter{base: fset.File(f.ast.FileStart), used: map[string]bool{}}
	for _, decl := range f.ast.Decls {
		switch d := decl.(type) {
		case *ast.GenDecl:
			if d.Tok == token.TYPE {
				c.specs(d, d.Doc, func(s ast.Spec) bool {
					ts, ok := s.(*ast.TypeSpec)
					return ok && slices.Contains(types, ts.Name.Name)
				})
			}
		case *ast.FuncDecl:
			if slices.Contains(types, receiver(d)) {
				c.node(d, d.Doc, nil)
			}
		}
	}
	if len(c.spans) == 0 {
		return nil, nil
	}
	dt := c.apply(f.dt)
	dt, err := dropImports(dt, c.used)
	if err != nil {
		return nil, err
	}
	out, err := format.Source(dt) // closes the gaps
	return out, errors.Wrap(err, "what is left is not Go")
}

// receiver returns the name of the type that a function is a method of, empty for one that is none.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.ParenExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// cutter collects what goes, and which packages that names.
type cutter struct {
	base  *token.File
	spans []span
	used  map[string]bool
}

// specs cuts the chosen members of a declaration, or all of it if that leaves none.
func (c *cutter) specs(d *ast.GenDecl, doc *ast.CommentGroup, chosen func(ast.Spec) bool) {
	var gone []ast.Spec
	for _, s := range d.Specs {
		if chosen(s) {
			gone = append(gone, s)
		}
	}
	if len(gone) == len(d.Specs) && len(gone) > 0 {
		var last *ast.CommentGroup
		if !d.Rparen.IsValid() { // no group: the comment at the end of the line is its only member's
			_, last = comments(d.Specs[0])
		}
		c.node(d, doc, last)
		return
	}
	for _, s := range gone {
		first, last := comments(s)
		c.node(s, first, last)
	}
}

// comments returns the comment over a member of a declaration and the one after it.
func comments(s ast.Spec) (first, last *ast.CommentGroup) {
	switch x := s.(type) {
	case *ast.TypeSpec:
		return x.Doc, x.Comment
	case *ast.ImportSpec:
		return x.Doc, x.Comment
	case *ast.ValueSpec:
		return x.Doc, x.Comment
	}
	return nil, nil
}

func (c *cutter) node(n ast.Node, first, last *ast.CommentGroup) {
	s := span{c.base.Offset(n.Pos()), c.base.Offset(n.End())}
	if first != nil {
		s.from = c.base.Offset(first.Pos())
	}
	if last != nil {
		s.to = c.base.Offset(last.End())
	}
	c.spans = append(c.spans, s)
	for name := range packagesIn(n) {
		c.used[name] = true
	}
}

func (c *cutter) apply(dt []byte) []byte {
	sort.Slice(c.spans, func(i, j int) bool { return c.spans[i].from > c.spans[j].from })
	for _, s := range c.spans {
		dt = slices.Concat(dt[:s.from], dt[s.to:])
	}
	return dt
}

// packagesIn returns the names before a dot, among which are those of the packages that something uses.
func packagesIn(n ast.Node) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok {
				names[id.Name] = true
			}
		}
		return true
	})
	return names
}

// dropImports removes the imports that were used by what is gone and by nothing else.
func dropImports(dt []byte, gone map[string]bool) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", dt, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "what is left is not Go: %v", err)
	}
	left := packagesIn(f)
	c := &cutter{base: fset.File(f.FileStart), used: map[string]bool{}}
	for _, decl := range f.Decls {
		if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.IMPORT {
			c.specs(d, d.Doc, func(s ast.Spec) bool {
				im, ok := s.(*ast.ImportSpec)
				if !ok {
					return false
				}
				needed, wasNeeded := false, false
				for _, name := range importNames(im) {
					needed = needed || left[name]
					wasNeeded = wasNeeded || gone[name]
				}
				return wasNeeded && !needed
			})
		}
	}
	return bytes.TrimSpace(c.apply(dt)), nil
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// importNames returns the names that an import may have in its file. A package's own name is not told by its path; those that the
// conventions allow are all returned.
func importNames(im *ast.ImportSpec) []string {
	if im.Name != nil {
		return []string{im.Name.Name}
	}
	p, err := strconv.Unquote(im.Path.Value)
	if err != nil {
		return nil
	}
	names := []string{path.Base(p)}
	if majorVersion.MatchString(names[0]) {
		names = append(names, path.Base(path.Dir(p)))
	}
	for _, name := range names {
		if stem, _, dotted := strings.Cut(name, "."); dotted { // yaml.v3
			names = append(names, stem)
		}
	}
	for _, name := range names {
		if parts := strings.FieldsFunc(name, func(r rune) bool { return r == '-' }); len(parts) > 1 { // go-digest, tools-golang
			names = append(names, parts...)
			names = append(names, strings.Join(parts, ""))
		}
	}
	return names
}
