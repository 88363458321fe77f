//go:build linux

package history_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// dirs gives out empty directories, removed when a check ends.
type dirs struct {
	t    *rapid.T
	root string
}

func newDirs(t *testing.T, rt *rapid.T) *dirs {
	root, err := os.MkdirTemp("", "history-")
	require.NoError(t, err)
	rt.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return &dirs{rt, root}
}

func (d *dirs) next() string {
	dir, err := os.MkdirTemp(d.root, "")
	require.NoError(d.t, err)
	return dir
}

// play makes all snapshots of a history in plain directories.
func (d *dirs) play(h history.History) []tree.Tree {
	trees := []tree.Tree{{".": tree.Dir(".")}}
	for i, s := range h {
		var got tree.Tree
		var err error
		if s.Diffs != nil {
			got, err = history.Merge(d.next(), nil, pairs(trees, s.Diffs))
		} else {
			dir := d.next()
			require.NoError(d.t, tree.Write(dir, trees[s.Parent].Entries()...))
			require.NoError(d.t, s.Apply(dir, i))
			got, err = tree.Read(dir)
		}
		require.NoError(d.t, err, "step %d of %s", i, h)
		trees = append(trees, got)
	}
	return trees
}

func pairs(trees []tree.Tree, diffs []history.Diff) (out [][2]tree.Tree) {
	for _, d := range diffs {
		out = append(out, [2]tree.Tree{trees[d.Lower], trees[d.Upper]})
	}
	return out
}

// TestOracle: what the oracle says of one layer is the layer, of two layers what can be seen of the upper, and of a chain the same as of its
// differences one by one.
func TestOracle(t *testing.T) {
	dir := t.TempDir()
	need.Xattr(t, dir)
	features := history.Probe(t, dir)
	t.Logf("features: %+v", features)
	history.Configure(t, 40)
	rapid.Check(t, func(rt *rapid.T) {
		h := history.Generate(rt, features)
		d := newDirs(t, rt)
		trees := d.play(h)
		top := trees[len(h)]
		got, err := history.Merge(d.next(), nil, [][2]tree.Tree{{nil, top}})
		require.NoError(rt, err, h)
		require.Empty(rt, tree.Diff(top, got, tree.Root), h)

		lower, upper := trees[rapid.IntRange(0, len(h)).Draw(rt, "lower")], trees[rapid.IntRange(0, len(h)).Draw(rt, "upper")]
		got, err = history.Merge(d.next(), lower, [][2]tree.Tree{{lower, upper}})
		require.NoError(rt, err, h)
		require.Empty(rt, tree.Diff(history.Visible(lower, upper), got, tree.Root, tree.Links), h)
		require.Empty(rt, history.Changes(upper, upper), h)

		parsed, err := history.Parse([]byte(h.String()))
		require.NoError(rt, err)
		require.Equal(rt, h.String(), parsed.String())
	})
}

// TestUnpack: the oracle's way of unpacking gives what containerd's gives, where that keeps everything.
func TestUnpack(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	need.Xattr(t, dir)
	features := history.Probe(t, dir)
	// It leaves out attributes of the system's administrators, and default ACLs pass to what is unpacked there.
	features.Xattrs = slices.DeleteFunc(features.Xattrs, func(name string) bool { return name == "trusted" || strings.HasPrefix(name, "default") })
	history.Configure(t, 40)
	rapid.Check(t, func(rt *rapid.T) {
		h := history.Generate(rt, features)
		for i := range h {
			h[i].Ops = slices.DeleteFunc(h[i].Ops, func(op history.Op) bool { return op.Do == history.Socket })
		}
		d := newDirs(t, rt)
		trees := d.play(h)
		ours, theirs := d.next(), d.next()
		for _, p := range pairs(trees, h[len(h)-1].Diffs) {
			changes := history.Changes(p[0], p[1])
			if slices.ContainsFunc(changes, func(c history.Change) bool { return c.Gone != nil }) { // which an archive cannot say
				return
			}
			layer, err := history.Pack(changes)
			require.NoError(rt, err, h)
			require.NoError(rt, history.Unpack(ours, layer), h)
			_, err = archive.Apply(t.Context(), theirs, bytes.NewReader(layer))
			require.NoError(rt, err, h)
		}
		want, err := tree.Read(theirs)
		require.NoError(rt, err)
		got, err := tree.Read(ours)
		require.NoError(rt, err)
		require.Empty(rt, tree.Diff(want, got, tree.Root), h)
	})
}
