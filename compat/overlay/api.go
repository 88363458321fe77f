package overlay

import (
	"context"
	_ "embed" // known.txt
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// knownText is what Version declares, a line for each declaration or member: what Describe writes.
//
//go:embed known.txt
var knownText string

// ChangedError says that BuildKit does not declare what the alias packages were written for. Its category is errdefs' failed
// precondition.
type ChangedError struct {
	// BuildKit is the directory that was looked at.
	BuildKit string
	// Missing are declarations of Version that are not there, or not so. An alias for them may be of no use, or wrong.
	Missing []string
	// Unknown are declarations that Version does not have, or not so. There is no alias for them; if something uses them, the
	// library has to offer the same.
	Unknown []string
}

// Error lists them all.
func (e *ChangedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s declares something else than BuildKit %s:", e.BuildKit, Version)
	for _, line := range e.Missing {
		fmt.Fprintf(&b, "\n- %s", line)
	}
	for _, line := range e.Unknown {
		fmt.Fprintf(&b, "\n+ %s", line)
	}
	return b.String()
}

// Unwrap makes it a failed precondition.
func (e *ChangedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// compare reports what differs between the declarations of a BuildKit and the known ones. Directories in skip are not looked at.
func compare(buildkit string, have []string, skip map[string]bool) error {
	left := map[string]bool{}
	for line := range strings.Lines(knownText) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			left[line] = true
		}
	}
	skipped := func(line string) bool {
		dir, _, _ := strings.Cut(line, ":")
		return skip[dir]
	}
	changed := &ChangedError{BuildKit: buildkit}
	for _, line := range have {
		if !left[line] && !skipped(line) {
			changed.Unknown = append(changed.Unknown, line)
		}
		delete(left, line)
	}
	for _, line := range keys(left) {
		if !skipped(line) {
			changed.Missing = append(changed.Missing, line)
		}
	}
	if len(changed.Missing)+len(changed.Unknown) == 0 {
		return nil
	}
	sort.Strings(changed.Unknown)
	return changed
}

// describe returns a line for every exported declaration of a package and for its members, tests excluded; or, for the named types alone,
// for all that a cut takes away. Parameters have no names in it, and build tags do not count.
func describe(dir string, files []*source, only []string) []string {
	d := &describer{dir: dir, only: only}
	for _, f := range files {
		if f.test() {
			continue
		}
		for _, decl := range f.ast.Decls {
			switch x := decl.(type) {
			case *ast.GenDecl:
				d.general(x)
			case *ast.FuncDecl:
				d.function(x)
			}
		}
	}
	sort.Strings(d.lines)
	return slices.Compact(d.lines)
}

type describer struct {
	dir   string
	only  []string
	lines []string
}

func (d *describer) line(format string, args ...any) {
	d.lines = append(d.lines, d.dir+": "+fmt.Sprintf(format, args...))
}

// wanted tells whether a declaration of that name at the top is described.
func (d *describer) wanted(name string) bool {
	if d.only != nil {
		return slices.Contains(d.only, name)
	}
	return ast.IsExported(name)
}

func (d *describer) general(decl *ast.GenDecl) {
	for _, s := range decl.Specs {
		switch x := s.(type) {
		case *ast.ValueSpec:
			for _, name := range x.Names {
				if d.wanted(name.Name) {
					d.line("%s %s", decl.Tok, name.Name)
				}
			}
		case *ast.TypeSpec:
			if d.wanted(x.Name.Name) {
				d.typeSpec(x)
			}
		}
	}
}

func (d *describer) typeSpec(s *ast.TypeSpec) {
	name, is := s.Name.Name, ""
	if s.Assign.IsValid() {
		is = "= "
	}
	switch t := s.Type.(type) {
	case *ast.StructType:
		d.line("type %s %sstruct", name, is)
		d.members(name, t.Fields)
	case *ast.InterfaceType:
		d.line("type %s %sinterface", name, is)
		d.members(name, t.Methods)
	default:
		d.line("type %s %s%s", name, is, typeText(t))
	}
}

// members describes fields or methods. Fields that are not exported are nobody's business.
func (d *describer) members(of string, list *ast.FieldList) {
	for _, f := range list.List {
		tag := ""
		if f.Tag != nil {
			tag = " " + f.Tag.Value
		}
		if len(f.Names) == 0 {
			d.line("%s embeds %s%s", of, typeText(f.Type), tag)
		}
		for _, name := range f.Names {
			if fn, ok := f.Type.(*ast.FuncType); ok && tag == "" {
				d.line("%s.%s%s", of, name.Name, strings.TrimPrefix(typeText(fn), "func"))
			} else if name.IsExported() {
				d.line("%s.%s %s%s", of, name.Name, typeText(f.Type), tag)
			}
		}
	}
}

func (d *describer) function(decl *ast.FuncDecl) {
	signature := strings.TrimPrefix(typeText(decl.Type), "func")
	of := receiver(decl)
	switch {
	case decl.Recv == nil:
		if d.only == nil && decl.Name.IsExported() {
			d.line("func %s%s", decl.Name.Name, signature)
		}
	case d.wanted(of) && (d.only != nil || decl.Name.IsExported()):
		d.line("(%s).%s%s", typeText(decl.Recv.List[0].Type), decl.Name.Name, signature)
	}
}

// typeText writes a type in one line, without the names of parameters.
func typeText(t ast.Expr) string {
	return types.ExprString(unnamed(t))
}

// unnamed returns a type in which a function's parameters and results have no names. Types within others are left: none of the
// declarations has a function there.
func unnamed(t ast.Expr) ast.Expr {
	fn, ok := t.(*ast.FuncType)
	if !ok {
		return t
	}
	return &ast.FuncType{Func: token.NoPos, Params: unnamedList(fn.Params), Results: unnamedList(fn.Results)}
}

func unnamedList(list *ast.FieldList) *ast.FieldList {
	if list == nil {
		return nil
	}
	out := &ast.FieldList{}
	for _, f := range list.List {
		for range max(1, len(f.Names)) {
			out.List = append(out.List, &ast.Field{Type: unnamed(f.Type)})
		}
	}
	return out
}

// Describe writes what a BuildKit, in a directory or of a version, declares: the text that a ChangedError is made by comparing.
func Describe(ctx context.Context, buildkit string, w io.Writer) error {
	dir, err := buildkitDir(ctx, buildkit)
	if err != nil {
		return err
	}
	for _, name := range append(slices.Clone(replaced), leafDirs()...) {
		files, err := readPackage(token.NewFileSet(), filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		for _, line := range describe(name, files, leaves[name]) {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return errors.WithStack(err)
			}
		}
	}
	return nil
}
