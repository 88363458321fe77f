package overlay

import (
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"
)

// cutText cuts types out of a file with that text; empty means that the file stays as it is.
func cutText(t *testing.T, text string, types ...string) string {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "x.go", text, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	dt, err := cut(fset, &source{name: "x.go", dt: []byte(text), ast: f}, types)
	require.NoError(t, err)
	return string(dt)
}

// TestCut has what must go and what must stay side by side, in the forms that Go's grammar has for them.
func TestCut(t *testing.T) {
	for _, tc := range []struct{ name, have, want string }{
		{
			"one of a group, with both its comments",
			"package p\n\ntype (\n\t// A is.\n\tA int\n\n\t// B goes.\n\tB string // with this\n\tC bool // but not this\n)\n",
			"package p\n\ntype (\n\t// A is.\n\tA int\n\n\tC bool // but not this\n)\n",
		},
		{
			"a whole group",
			"package p\n\n// All go.\ntype (\n\tB string\n)\n\n// V stays.\nvar V B\n",
			"package p\n\n// V stays.\nvar V B\n",
		},
		{
			"methods of every receiver, and no others",
			"package p\n\ntype B struct{}\n\n// M goes.\nfunc (b *B) M() {}\nfunc (B) n() {}\nfunc (BB) M() {}\nfunc B2() B { return B{} }\n",
			"package p\n\nfunc (BB) M() {}\nfunc B2() B   { return B{} }\n",
		},
		{
			"a comment at the end of the line goes with it, one below stays",
			"package p\n\ntype B int // goes\n\n// stays\n\nvar X int\n",
			"package p\n\n// stays\n\nvar X int\n",
		},
		{
			"build tags, package documentation and directives stay",
			"//go:build linux && nydus\n\n// Package p is.\npackage p\n\n//go:generate x\n\ntype B int\n",
			"//go:build linux && nydus\n\n// Package p is.\npackage p\n\n//go:generate x\n",
		},
		{
			"imports that only it needed go, by all the names that an import can have",
			"package p\n\nimport (\n\t\"io\"\n\n\ta \"example.com/x\"\n\t\"example.com/go-digest\"\n\t\"example.com/y/v2\"\n\t\"example.com/yaml.v3\"\n\t_ \"example.com/z\"\n\t\"example.com/unseen\"\n)\n\n" +
				"type B struct {\n\tA a.T\n\tD digest.D\n\tY y.T\n\tZ yaml.T\n\tR io.Reader\n}\n\nvar R io.Reader\n",
			"package p\n\nimport (\n\t\"io\"\n\n\t\"example.com/unseen\"\n\t_ \"example.com/z\"\n)\n\nvar R io.Reader\n",
		},
		{
			"the last import takes its declaration along",
			"package p\n\nimport \"io\"\n\ntype B io.Reader\n\nvar X int\n",
			"package p\n\nvar X int\n",
		},
		{
			"a type inside of a function is another one",
			"package p\n\nfunc f() {\n\ttype B int\n}\n",
			"",
		},
		{
			"generic types",
			"package p\n\ntype B[T any] struct{}\n\nfunc (b *B[T]) M() {}\n\nvar X int\n",
			"package p\n\nvar X int\n",
		},
	} {
		require.Equal(t, tc.want, cutText(t, tc.have, "B"), tc.name)
	}
}
