package testutil

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// WriteTree makes the entries below dir, see tree.Write.
func WriteTree(t testing.TB, dir string, entries ...tree.Entry) {
	t.Helper()
	require.NoError(t, tree.Write(dir, entries...))
}

// ReadTree reads the tree below dir, see tree.Read.
func ReadTree(t testing.TB, dir string) tree.Tree {
	t.Helper()
	got, err := tree.Read(dir)
	require.NoError(t, err)
	return got
}

// DiffTree fails the test with a list of the differences if two trees are not the same, except for
// the aspects given.
func DiffTree(t testing.TB, want, got tree.Tree, except ...tree.Aspect) {
	t.Helper()
	if diffs := tree.Diff(want, got, except...); len(diffs) > 0 {
		t.Errorf("the trees differ:\n%s", strings.Join(diffs, "\n"))
	}
}

// RequireTree fails the test unless dir holds exactly what is declared, parents of it included. Times and
// owners, and the root directory itself, do not count.
func RequireTree(t testing.TB, dir string, entries ...tree.Entry) {
	t.Helper()
	want := t.TempDir()
	WriteTree(t, want, entries...)
	DiffTree(t, ReadTree(t, want), ReadTree(t, dir), tree.Times, tree.Owners, tree.Root)
}
