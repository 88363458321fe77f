package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// node is a file of the model; several names of one file are one node.
type node struct {
	entry    tree.Entry // without path
	children map[string]*node
}

// model is a directory tree in memory to which layer archives are applied in the most naive way: in order, entry by entry.
type model struct {
	root    *node
	written map[string]bool // paths that come from the layer being applied
}

func newModel() *model { return &model{root: newDirNode()} }

// newDirNode is a directory that no archive describes.
func newDirNode() *node {
	return &node{
		entry:    tree.Entry{Kind: tree.KindDir, Mode: 0o755, UID: os.Geteuid(), GID: os.Getegid()},
		children: map[string]*node{},
	}
}

// at returns the node of a path, or nil.
func (m *model) at(name string) *node {
	n := m.root
	if name == "." {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// dir returns the directory of a path and makes it if it is not there.
func (m *model) dir(name string) (*node, error) {
	n, full := m.root, ""
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		full = path.Join(full, part)
		next := n.children[part]
		if next == nil {
			next = newDirNode()
			n.children[part] = next
			m.written[full] = true
		}
		if next.entry.Kind != tree.KindDir {
			return nil, errors.Errorf("%s is below a %s", name, next.entry.Kind)
		}
		n = next
	}
	return n, nil
}

// apply adds one layer.
func (m *model) apply(archived []byte) error {
	m.written = map[string]bool{}
	r := tar.NewReader(bytes.NewReader(archived))
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := m.entry(hdr, string(data)); err != nil {
			return errors.Wrap(err, hdr.Name)
		}
	}
}

func (m *model) entry(hdr *tar.Header, data string) error {
	name := path.Clean(hdr.Name)
	parent, err := m.dir(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch {
	case base == ".wh..wh..opq":
		m.hide(path.Dir(name), parent)
		return nil
	case strings.HasPrefix(base, ".wh."):
		if base = base[len(".wh."):]; !m.written[path.Join(path.Dir(name), base)] {
			delete(parent.children, base)
		}
		return nil
	case hdr.Typeflag == tar.TypeLink:
		target := m.at(path.Clean(hdr.Linkname))
		if target == nil {
			return errors.Errorf("link to %s, which is not there", hdr.Linkname)
		}
		m.written[name] = true
		parent.children[base] = target
		return nil
	}
	kind, ok := map[byte]tree.Kind{
		tar.TypeReg: tree.KindFile, tar.TypeDir: tree.KindDir, tar.TypeSymlink: tree.KindSymlink, tar.TypeFifo: tree.KindFifo,
	}[hdr.Typeflag]
	if !ok {
		return errors.Errorf("type %q", hdr.Typeflag)
	}
	n := &node{entry: tree.Entry{Kind: kind, Data: data, Target: hdr.Linkname, UID: hdr.Uid, GID: hdr.Gid, ModTime: hdr.ModTime}}
	if kind != tree.KindSymlink {
		n.entry.Mode = hdr.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	}
	for key, value := range hdr.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			tree.Xattr(attr, value)(&n.entry)
		}
	}
	if kind == tree.KindDir {
		n.children = map[string]*node{}
		if old := parent.children[base]; old != nil && old.entry.Kind == tree.KindDir {
			n.children = old.children
		}
	}
	parent.children[base] = n
	m.written[name] = true
	return nil
}

// hide empties a directory of what lower layers left in it.
func (m *model) hide(name string, dir *node) {
	for base, child := range dir.children {
		switch full := path.Join(name, base); {
		case !m.written[full]:
			delete(dir.children, base)
		case child.entry.Kind == tree.KindDir:
			m.hide(full, child)
		}
	}
}

// tree returns the model as tree.Read would find it.
func (m *model) tree() tree.Tree {
	out := tree.Tree{}
	first := map[*node]string{}
	var walk func(name string, n *node)
	walk = func(name string, n *node) {
		e := n.entry
		if seen, ok := first[n]; ok {
			e = tree.Entry{Kind: tree.KindHardlink, Target: seen}
		} else {
			first[n] = name
		}
		e.Path = name
		out[name] = e
		for _, child := range slices.Sorted(maps.Keys(n.children)) {
			walk(path.Join(name, child), n.children[child])
		}
	}
	walk(".", m.root)
	return out
}

// resolved replaces every hard link by what it is a name of.
func resolved(t tree.Tree) tree.Tree {
	out := tree.Tree{}
	for name, e := range t {
		if e.Kind == tree.KindHardlink {
			e = t[e.Target]
			e.Path = name
		}
		out[name] = e
	}
	return out
}

// diffTrees lists how a tree that was read differs from the model's. On overlayfs a file that is linked to from a higher layer
// is another than its names in lower layers (index=off), so there each name is compared by itself, and what is
// linked must be so in the model.
func diffTrees(want, got tree.Tree, overlay bool) []string {
	if !overlay {
		return tree.Diff(want, got, tree.DirTimes, tree.Root)
	}
	diffs := tree.Diff(resolved(want), resolved(got), tree.DirTimes, tree.Root)
	group := func(e tree.Entry) string {
		if e.Kind == tree.KindHardlink {
			return e.Target
		}
		return e.Path
	}
	for name, e := range got {
		if e.Kind == tree.KindHardlink && group(want[name]) != group(want[e.Target]) {
			diffs = append(diffs, fmt.Sprintf("%s: must not be linked to %s", name, e.Target))
		}
	}
	return diffs
}

// TestModel compares the model with what containerd's own code makes of the same archives in a plain directory, and makes sure
// that the images have in them what they are said to.
func TestModel(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(60) {
		img := newImage(t, seed, plain, 5)
		dir := t.TempDir()
		for _, l := range img.layers {
			_, err := archive.Apply(context.Background(), dir, bytes.NewReader(l.tar))
			require.NoError(t, err)
		}
		got, err := tree.Read(dir)
		require.NoError(t, err)
		require.Empty(t, diffTrees(img.tree, got, false), "seed %d", seed)
		require.Empty(t, diffTrees(img.tree, got, true), "seed %d", seed)
		for what, n := range img.holds {
			kinds[what] += n
		}
	}
	for _, op := range ops {
		require.GreaterOrEqual(t, kinds[op.name], 10, "%s is hardly ever tested: %v", op.name, kinds)
	}
}

// TestDiffTrees makes sure that the comparison finds differences.
func TestDiffTrees(t *testing.T) {
	file := func(name, data string) tree.Entry {
		return tree.Entry{Path: name, Kind: tree.KindFile, Data: data, ModTime: time.Unix(1, 2)}
	}
	link := func(name, target string) tree.Entry {
		return tree.Entry{Path: name, Kind: tree.KindHardlink, Target: target}
	}
	a, b, linked := file("a", "1"), file("b", "1"), link("b", "a")
	one, two := tree.Tree{"a": a, "b": b}, tree.Tree{"a": a, "b": linked}
	for _, overlay := range []bool{false, true} {
		require.Empty(t, diffTrees(one, one, overlay))
		require.Empty(t, diffTrees(two, two, overlay))
		require.NotEmpty(t, diffTrees(one, two, overlay), "what is linked must be so in the model")
		require.NotEmpty(t, diffTrees(one, tree.Tree{"a": a}, overlay))
		require.NotEmpty(t, diffTrees(one, tree.Tree{"a": a, "b": file("b", "2")}, overlay))
	}
	require.NotEmpty(t, diffTrees(two, one, false), "native keeps links")
	require.Empty(t, diffTrees(two, one, true), "overlayfs may break them")
}

// headers yields the entries of an archive.
func headers(t testing.TB, archived []byte) iter.Seq[*tar.Header] {
	return func(yield func(*tar.Header) bool) {
		r := tar.NewReader(bytes.NewReader(archived))
		for {
			hdr, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			require.NoError(t, err)
			if !yield(hdr) {
				return
			}
		}
	}
}
