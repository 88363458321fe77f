package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

const library = "github.com/layercache/cache"

// listed is what `go list -e -deps -export -json` says of one package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles, CgoFiles       []string
	ImportMap               map[string]string
	DepOnly, Standard       bool
	Error                   *struct{ Err string }
}

// finding is one thing that keeps a package from compiling.
type finding struct {
	pkg string // BuildKit package
	id  string // what is missing, such as snapshot.Diff or cache.ManagerOpt.Hooks; empty when it is something else
	msg string // the type checker's words with the position
}

// checker type-checks the packages that did not compile, from source and to the end: the compiler stops at the first broken
// package on every path and would hide what its importers miss.
type checker struct {
	fset     *token.FileSet
	overlay  map[string]string // file as the go command names it -> file to read
	packages map[string]*listed
	done     map[string]*types.Package
	compiled types.ImporterFrom // reads export data
	findings []finding
	checked  int // packages checked from source
}

func newChecker(overlayJSON []byte, list io.Reader) (*checker, []*listed, error) {
	var o struct{ Replace map[string]string }
	if err := json.Unmarshal(overlayJSON, &o); err != nil {
		return nil, nil, errors.Wrap(err, "read overlay")
	}
	c := &checker{fset: token.NewFileSet(), overlay: o.Replace, packages: map[string]*listed{}, done: map[string]*types.Package{}}
	var order []*listed
	for dec := json.NewDecoder(list); ; {
		p := new(listed)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, nil, errors.Wrap(err, "read package list")
		}
		c.packages[p.ImportPath] = p
		order = append(order, p)
	}
	imp, ok := importer.ForCompiler(c.fset, "gc", c.open).(types.ImporterFrom)
	if !ok {
		return nil, nil, errors.New("this toolchain's importer cannot read export data")
	}
	c.compiled = imp
	return c, order, nil
}

// open finds the export data of a package that compiled.
func (c *checker) open(importPath string) (io.ReadCloser, error) {
	p := c.packages[importPath]
	if p == nil || p.Export == "" {
		return nil, errors.Errorf("no export data for %s", importPath)
	}
	return os.Open(p.Export)
}

// analyse checks every package without export data; order has dependencies before their importers.
func (c *checker) analyse(order []*listed) error {
	for _, p := range order {
		if p.Export != "" || p.ImportPath == "unsafe" || p.ImportPath == "C" {
			continue
		}
		if p.ImportPath == library || strings.HasPrefix(p.ImportPath, library+"/") {
			return errors.Errorf("the library itself does not compile: %s: %s", p.ImportPath, p.reason())
		}
		if err := c.fromSource(p); err != nil {
			return err
		}
	}
	return nil
}

func (p *listed) reason() string {
	if p.Error == nil {
		return "no reason given"
	}
	return p.Error.Err
}

func (c *checker) fromSource(p *listed) error {
	var files []*ast.File
	for _, name := range append(append([]string{}, p.GoFiles...), p.CgoFiles...) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		if to, ok := c.overlay[name]; ok {
			name = to
		}
		f, err := parser.ParseFile(c.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return errors.Wrap(err, p.ImportPath)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return errors.Errorf("%s: %s", p.ImportPath, p.reason())
	}
	conf := types.Config{
		Importer:    importerOf{c, p},
		FakeImportC: true,
		Sizes:       types.SizesFor("gc", runtime.GOARCH),
		Error: func(err error) {
			var te types.Error
			if errors.As(err, &te) {
				c.report(p, files, te)
			}
		},
	}
	pkg, _ := conf.Check(p.ImportPath, c.fset, files, nil) // the errors went to conf.Error
	c.done[p.ImportPath] = pkg
	c.checked++
	return nil
}

// importerOf resolves the imports of one package: what was checked from source first, export data otherwise.
type importerOf struct {
	c *checker
	p *listed
}

func (i importerOf) Import(importPath string) (*types.Package, error) {
	if mapped, ok := i.p.ImportMap[importPath]; ok {
		importPath = mapped
	}
	if importPath == "unsafe" {
		return types.Unsafe, nil
	}
	if pkg, ok := i.c.done[importPath]; ok {
		return pkg, nil
	}
	return i.c.compiled.ImportFrom(importPath, i.p.Dir, 0)
}

func (c *checker) report(p *listed, files []*ast.File, te types.Error) {
	if strings.HasPrefix(te.Msg, "\t") { // continues the message before
		return
	}
	pos := c.fset.Position(te.Pos)
	f := finding{pkg: p.ImportPath, msg: fmt.Sprintf("%s: %s:%d: %s", p.ImportPath, filepath.Base(pos.Filename), pos.Line, te.Msg)}
	for _, file := range files {
		if file.FileStart <= te.Pos && te.Pos <= file.FileEnd {
			f.id = identify(te.Msg, importsOf(file))
		}
	}
	c.findings = append(c.findings, f)
}

// importsOf maps the names that a file uses for its imports to their paths.
func importsOf(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, im := range f.Imports {
		p, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			continue
		}
		name := path.Base(p)
		if im.Name != nil {
			name = im.Name.Name
		}
		names[name] = p
	}
	return names
}

var (
	undefined = regexp.MustCompile(`^undefined: (\w+)\.(\w+)$`)
	noMember  = regexp.MustCompile(`undefined \(type \*?(\S+) has no field or method (\w+)\)$`)
	noField   = regexp.MustCompile(`^unknown field (\w+) in struct literal of type (\S+)$`)
	noMethod  = regexp.MustCompile(`\*?(\S+) does not implement \S+ \(missing method (\w+)\)$`)
	noPackage = regexp.MustCompile(`^could not import (\S+) `)
)

// identify names what a message misses, so that the list of known gaps can hold it: an identifier of the library, or a member
// of one of its types. Anything else has no name and is never expected.
func identify(msg string, imports map[string]string) string {
	if m := undefined.FindStringSubmatch(msg); m != nil {
		if p := imports[m[1]]; p == library || strings.HasPrefix(p, library+"/") {
			return path.Base(p) + "." + m[2]
		}
		return ""
	}
	if m := noMember.FindStringSubmatch(msg); m != nil {
		return plain(m[1]) + "." + m[2]
	}
	if m := noField.FindStringSubmatch(msg); m != nil {
		return plain(m[2]) + "." + m[1]
	}
	if m := noMethod.FindStringSubmatch(msg); m != nil {
		return plain(m[1]) + "." + m[2]
	}
	if m := noPackage.FindStringSubmatch(msg); m != nil && strings.HasPrefix(m[1], library) {
		return strings.TrimPrefix(m[1], path.Dir(library)+"/")
	}
	return ""
}

// plain turns the type checker's `"example.org/engine/cache".Opt`, written so where two packages share a name, into cache.Opt.
func plain(typ string) string {
	return path.Base(strings.ReplaceAll(typ, `"`, ""))
}

// ids lists what is missing, each once, sorted, with the packages that miss it.
func ids(findings []finding) (names []string, users map[string][]string) {
	users = map[string][]string{}
	for _, f := range findings {
		if f.id == "" {
			continue
		}
		if users[f.id] == nil {
			names = append(names, f.id)
		}
		if u := users[f.id]; len(u) == 0 || u[len(u)-1] != f.pkg {
			users[f.id] = append(u, f.pkg)
		}
	}
	sort.Strings(names)
	return names, users
}
