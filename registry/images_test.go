package registry

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// format is how a layer is compressed.
type format string

const (
	plain   format = ocispecs.MediaTypeImageLayer
	gzipped format = ocispecs.MediaTypeImageLayerGzip
	zstded  format = ocispecs.MediaTypeImageLayerZstd
)

// image is a generated image and the tree it must give.
type image struct {
	layers []layer
	tree   tree.Tree
	trees  []tree.Tree    // after each layer
	holds  map[string]int // which operations made it, by name
}

type layer struct {
	desc   ocispecs.Descriptor
	tar    []byte
	blob   []byte
	diffID digest.Digest
}

// newImage generates an image of n layers. The same arguments give the same bytes, save for the owners of files, which are the
// user's who runs the test if that is not root. Images of one seed share their lower layers.
func newImage(t testing.TB, seed uint64, f format, n int) *image {
	t.Helper()
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0)), m: newModel(), holds: map[string]int{}}
	img := &image{holds: g.holds}
	for range n {
		archived, err := tree.Tar(g.layer()...)
		require.NoError(t, err)
		require.NoError(t, g.m.apply(archived))
		img.add(t, f, archived)
		img.trees = append(img.trees, g.m.tree())
	}
	img.tree = g.m.tree()
	return img
}

// with returns the image with one more layer of the given entries.
func (img *image) with(t testing.TB, f format, entries ...tree.Entry) *image {
	t.Helper()
	archived, err := tree.Tar(entries...)
	require.NoError(t, err)
	out, m := &image{holds: img.holds, layers: slices.Clone(img.layers), trees: slices.Clone(img.trees)}, newModel()
	out.add(t, f, archived)
	for _, l := range out.layers {
		require.NoError(t, m.apply(l.tar))
	}
	out.tree = m.tree()
	out.trees = append(out.trees, out.tree)
	return out
}

// mix returns an image with the same layers, each in the next of the formats.
func (img *image) mix(t testing.TB, formats ...format) *image {
	t.Helper()
	out := &image{tree: img.tree, trees: img.trees, holds: img.holds}
	for i, l := range img.layers {
		out.add(t, formats[i%len(formats)], l.tar)
	}
	return out
}

func (img *image) add(t testing.TB, f format, archived []byte) {
	t.Helper()
	blob := compress(t, f, archived)
	img.layers = append(img.layers, layer{
		desc:   ocispecs.Descriptor{MediaType: string(f), Digest: digest.FromBytes(blob), Size: int64(len(blob))},
		tar:    archived,
		blob:   blob,
		diffID: digest.FromBytes(archived),
	})
}

func compress(t testing.TB, f format, data []byte) []byte {
	t.Helper()
	if f == plain {
		return data
	}
	var buf bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&buf)
	if f == zstded {
		enc, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
		require.NoError(t, err)
		w = enc
	}
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// generator makes one layer after the other, each fit to go onto those before.
type generator struct {
	rng    *rand.Rand
	m      *model // the tree below the layer that is made
	holds  map[string]int
	serial int

	out  []tree.Entry
	done map[string]bool // paths that the layer has an entry for or hides
}

// ops are what a layer may do, with how often.
var ops = []struct {
	name   string
	weight int
	do     func(g *generator) bool // false: there is nothing to do it to
}{
	{"directory", 4, (*generator).newDir},
	{"file", 8, (*generator).newFile},
	{"symlink", 2, (*generator).newSymlink},
	{"fifo", 1, func(g *generator) bool { return g.put(g.free(), tree.Entry{Kind: tree.KindFifo, Mode: g.mode()}) }},
	{"hard link", 3, (*generator).link},
	{"link into a lower layer", 2, (*generator).linkBelow},
	{"implicit directory", 1, (*generator).implicit},
	{"overwrite", 3, (*generator).overwrite},
	{"change directory", 2, (*generator).changeDir},
	{"replace", 2, (*generator).replace},
	{"whiteout", 3, (*generator).whiteout},
	{"opaque", 1, (*generator).opaque},
}

// layer returns the entries of the next layer.
func (g *generator) layer() []tree.Entry {
	g.out, g.done = nil, map[string]bool{}
	g.newDir()
	g.newFile()
	var sum int
	for _, op := range ops {
		sum += op.weight
	}
	for range 4 + g.rng.IntN(9) {
		at := g.rng.IntN(sum)
		for _, op := range ops {
			if at -= op.weight; at < 0 {
				if op.do(g) {
					g.holds[op.name]++
				}
				break
			}
		}
	}
	return g.out
}

// lower returns the paths below this layer that it left alone and that fit, in order.
func (g *generator) lower(fits func(name string, n *node) bool) (names []string) {
	var walk func(name string, n *node)
	walk = func(name string, n *node) {
		if g.done[name] && n.entry.Kind != tree.KindDir {
			return
		}
		if name != "." && !g.done[name] && fits(name, n) {
			names = append(names, name)
		}
		for _, child := range slices.Sorted(maps.Keys(n.children)) {
			if full := path.Join(name, child); !g.gone(full) {
				walk(full, n.children[child])
			}
		}
	}
	walk(".", g.m.root)
	return names
}

// gone tells whether the layer hides a path of a lower layer.
func (g *generator) gone(name string) bool { return g.done["-"+name] }

// hides keeps the rest of the layer off a path and all below it.
func (g *generator) hides(name string) { g.done[name], g.done["-"+name] = true, true }

func (g *generator) one(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[g.rng.IntN(len(names))]
}

// dir returns a directory that is there once the layer is applied so far.
func (g *generator) dir() string {
	names := g.lower(func(_ string, n *node) bool { return n.entry.Kind == tree.KindDir })
	for _, e := range g.out {
		if e.Kind == tree.KindDir {
			names = append(names, e.Path)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.Count(name, "/") > 3 })
	return g.one(append(names, "."))
}

// free returns a path that was never used. As other builders do, the layer has an entry for the directory above, too, or has not.
func (g *generator) free() string {
	dir := g.dir()
	if n := g.m.at(dir); n != nil && dir != "." && !g.done[dir] && g.rng.IntN(2) == 0 {
		e := n.entry
		g.put(dir, e)
	}
	g.serial++
	return path.Join(dir, fmt.Sprintf("%c%d", 'a'+rune(g.rng.IntN(26)), g.serial))
}

// put adds an entry with owner and time.
func (g *generator) put(name string, e tree.Entry) bool {
	e.Path = name
	e.ModTime = time.Unix(1_500_000_000+g.rng.Int64N(200_000_000), g.rng.Int64N(1_000_000_000))
	e.UID, e.GID = g.owner(os.Geteuid()), g.owner(os.Getegid())
	g.out = append(g.out, e)
	g.done[name] = true
	return true
}

// owner draws a user or group, for others than root to no effect: they get their own.
func (g *generator) owner(own int) int {
	id := []int{0, 0, 1000, 65534}[g.rng.IntN(4)]
	if os.Geteuid() != 0 {
		return own
	}
	return id
}

func (g *generator) mode() fs.FileMode {
	modes := []fs.FileMode{0o644, 0o644, 0o600, 0o755, 0o444, 0o755 | fs.ModeSetuid, 0o755 | fs.ModeSetgid}
	return modes[g.rng.IntN(len(modes))]
}

// attrs gives an entry an attribute now and then. Others than root may not set one on what they may not write, and
// containerd's native snapshotter silently leaves those out when it copies a parent.
func (g *generator) attrs(e tree.Entry) tree.Entry {
	draw, value := g.rng.IntN(4), g.rng.Uint64()
	if draw == 0 && (os.Geteuid() == 0 || e.Mode&0o200 != 0) {
		tree.Xattr("user.layer", fmt.Sprint(value))(&e)
	}
	if draw := g.rng.IntN(8); draw == 0 && e.Kind == tree.KindFile && os.Geteuid() == 0 {
		// cap_net_raw=ep: an owner set afterwards would clear it
		tree.Xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")(&e)
	}
	return e
}

func (g *generator) newDir() bool {
	modes := []fs.FileMode{0o755, 0o755, 0o700, 0o777 | fs.ModeSticky, 0o775 | fs.ModeSetgid}
	return g.put(g.free(), g.attrs(tree.Entry{Kind: tree.KindDir, Mode: modes[g.rng.IntN(len(modes))]}))
}

// file is a file of one of several sizes, half random and half not, so that it compresses somewhat.
func (g *generator) file() tree.Entry {
	sizes := []int{0, 1, 60, 4095, 4096, 4097, 70_000}
	data := make([]byte, sizes[g.rng.IntN(len(sizes))])
	for i := range data {
		if i%64 < 32 {
			data[i] = byte(g.rng.Uint32())
		}
	}
	return g.attrs(tree.Entry{Kind: tree.KindFile, Mode: g.mode(), Data: string(data)})
}

func (g *generator) newFile() bool { return g.put(g.free(), g.file()) }

func (g *generator) newSymlink() bool {
	targets := []string{"nowhere", "/etc/passwd", "../../../../up", "."}
	return g.put(g.free(), tree.Entry{Kind: tree.KindSymlink, Target: targets[g.rng.IntN(len(targets))]})
}

// link links to a file of the same layer.
func (g *generator) link() bool {
	var files []tree.Entry
	for _, e := range g.out {
		if e.Kind == tree.KindFile {
			files = append(files, e)
		}
	}
	target := files[g.rng.IntN(len(files))]
	g.linkTo(target.Path, target)
	return true
}

// linkBelow links to a file of a lower layer.
func (g *generator) linkBelow() bool {
	target := g.one(g.lower(func(_ string, n *node) bool { return n.entry.Kind == tree.KindFile }))
	if target == "" {
		return false
	}
	g.linkTo(target, g.m.at(target).entry)
	g.done[target] = true
	return true
}

// linkTo adds a name of a file. Whoever unpacks a link sets mode, owner and time once more, for all names.
func (g *generator) linkTo(target string, like tree.Entry) {
	name := g.free()
	g.done[name] = true
	like.Path, like.Kind, like.Target, like.Data = name, tree.KindHardlink, target, ""
	g.out = append(g.out, like)
}

// implicit makes a file in directories that the layer has no entries for. They are at the top, since below a directory with
// the setgid bit the system would give them a group that nobody asked for.
func (g *generator) implicit() bool {
	g.serial++
	return g.put(fmt.Sprintf("implied%d/further/file", g.serial), g.file())
}

func (g *generator) overwrite() bool {
	name := g.one(g.lower(func(_ string, n *node) bool { return n.entry.Kind == tree.KindFile }))
	return name != "" && g.put(name, g.file())
}

// changeDir changes a directory that is there. What attributes it had it keeps: whether those that an archive does not
// mention stay is nowhere said.
func (g *generator) changeDir() bool {
	name := g.one(g.lower(func(_ string, n *node) bool { return n.entry.Kind == tree.KindDir }))
	if name == "" {
		return false
	}
	e := g.m.at(name).entry
	e.Mode = 0o711
	tree.Xattr("user.changed", fmt.Sprint(g.serial))(&e)
	return g.put(name, e)
}

// replace puts something of another kind in the place of what was there, without a whiteout.
func (g *generator) replace() bool {
	name := g.one(g.lower(func(name string, _ *node) bool { return !g.below(name) }))
	if name == "" {
		return false
	}
	kind := g.m.at(name).entry.Kind
	g.hides(name)
	if kind == tree.KindDir {
		return g.put(name, g.file())
	}
	return g.put(name, tree.Entry{Kind: tree.KindDir, Mode: 0o755})
}

// below tells whether the layer has done something in a directory already.
func (g *generator) below(name string) bool {
	for done := range g.done {
		if strings.HasPrefix(strings.TrimPrefix(done, "-"), name+"/") {
			return true
		}
	}
	return false
}

func (g *generator) whiteout() bool {
	name := g.one(g.lower(func(name string, _ *node) bool { return !g.below(name) }))
	if name == "" {
		return false
	}
	g.hides(name)
	g.out = append(g.out, tree.Whiteout(name))
	return true
}

// opaque hides what a directory holds and puts something new there. The mark comes before or after that: both occur.
func (g *generator) opaque() bool {
	name := g.one(g.lower(func(name string, n *node) bool {
		return n.entry.Kind == tree.KindDir && len(n.children) > 0 && !g.below(name)
	}))
	if name == "" {
		return false
	}
	g.put(name, g.m.at(name).entry)
	for child := range g.m.at(name).children {
		g.hides(path.Join(name, child))
	}
	first := g.rng.IntN(2) == 0
	if first {
		g.out = append(g.out, tree.Opaque(name))
	}
	g.serial++
	g.put(path.Join(name, fmt.Sprintf("instead%d", g.serial)), g.file())
	if !first {
		g.out = append(g.out, tree.Opaque(name))
	}
	return true
}
