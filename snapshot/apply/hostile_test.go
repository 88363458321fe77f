package apply_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// canary is a path outside of every tree, which hostile layers try to reach. Where it is, is filled in per test.
const canary = "@CANARY@"

// verdict is what becomes of a hostile layer.
type verdict int

const (
	refused  verdict = iota // with an invalid argument
	confined                // unpacked, and nothing outside of the tree has changed
)

// hostileCase is an archive that means harm, by its headers.
type hostileCase struct {
	name    string
	headers []tar.Header
	verdict verdict
	// patch breaks the archive in ways that no writer does.
	patch func(archive []byte) []byte
	// want is what a confined one makes on top of hostileBase.
	want []tree.Entry
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }

func dir(name string) tar.Header {
	return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}
}

func device(name string, kind byte, major, minor int64) tar.Header {
	return tar.Header{Name: name, Typeflag: kind, Devmajor: major, Devminor: minor, Mode: 0o600}
}

// reheader changes the first block of an archive and makes its checksum right.
func reheader(archive []byte, change func(header []byte)) []byte {
	header := archive[:512]
	change(header)
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return archive
}

// nul puts a NUL where the archive says so; pax records have no checksum.
func nul(archive []byte) []byte { return bytes.ReplaceAll(archive, []byte("NUL"), []byte("N\x00L")) }

func one(h tar.Header) []tar.Header { return []tar.Header{h} }

// hostileBase is what lies below: links that lead outside, and files to lose.
var hostileBase = []tree.Entry{
	tree.Dir("d"), tree.File("d/keep", "x"), tree.File("keep", "x"), tree.Symlink("out", canary), tree.Symlink("up", "../../../../../../.."), tree.Symlink("loop", "loop2"), tree.Symlink("loop2", "loop"),
}

var hostileCases = []hostileCase{
	{name: "dotdot", headers: one(file("../canary/evil"))},
	{name: "dotdot deep", headers: one(file("d/../../canary/evil"))},
	{name: "dotdot alone", headers: one(dir(".."))},
	{name: "dotdot hidden by a directory", headers: []tar.Header{dir("d"), file("d/x/../../../canary/evil")}},
	{name: "dotdot inside", headers: one(file("d/../evil")), verdict: confined, want: []tree.Entry{tree.File("evil", "")}},
	{name: "absolute", headers: one(file("/evil")), verdict: confined, want: []tree.Entry{tree.File("evil", "")}},
	{name: "absolute dotdot", headers: one(file("/../evil")), verdict: confined, want: []tree.Entry{tree.File("evil", "")}},
	{
		name: "absolute outside", headers: one(file(canary + "/evil")), verdict: confined,
		want: []tree.Entry{tree.File(canary+"/evil", "")},
	},
	{name: "empty name", headers: one(file(""))},
	{name: "dot", headers: one(file("."))},
	{name: "root as a symlink", headers: one(symlink(".", "/"))},
	{name: "root", headers: one(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o000}), verdict: confined},
	{
		name: "symlink then through it", headers: []tar.Header{symlink("l", canary), file("l/evil")}, verdict: confined,
		want: []tree.Entry{tree.Symlink("l", canary), tree.File(canary+"/evil", "")},
	},
	{name: "through a lower symlink", headers: one(file("out/evil")), verdict: confined, want: []tree.Entry{tree.File(canary+"/evil", "")}},
	{name: "up through a lower symlink", headers: one(file("up/evil")), verdict: confined, want: []tree.Entry{tree.File("evil", "")}},
	{name: "whiteout through a lower symlink", headers: one(file("out/.wh.file")), verdict: confined, want: []tree.Entry{tree.Dir(canary)}},
	{name: "opaque through a lower symlink", headers: one(file("out/.wh..wh..opq")), verdict: confined, want: []tree.Entry{tree.Dir(canary)}},
	{name: "whiteout up through a lower symlink", headers: one(file("up/.wh.evil")), verdict: confined},
	{
		name: "file over a symlink", headers: one(file("out")), verdict: confined,
		want: []tree.Entry{tree.File("out", "")},
	},
	{name: "link loop", headers: one(file("loop/evil"))},
	{name: "link loop of the layer", headers: []tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/evil")}},
	{name: "hard link dotdot", headers: one(hardlink("h", "../canary/file"))},
	{name: "hard link absolute", headers: one(hardlink("h", canary+"/file"))},
	{name: "hard link through a symlink", headers: []tar.Header{symlink("l", canary), hardlink("h", "l/file")}},
	{name: "hard link through a lower symlink", headers: one(hardlink("h", "out/file"))},
	{name: "hard link to the root", headers: one(hardlink("h", "."))},
	{name: "hard link to its parent", headers: []tar.Header{dir("d"), hardlink("d/h", "d/..")}},
	{name: "hard link to a directory", headers: []tar.Header{dir("d"), hardlink("h", "d")}},
	{name: "hard link to a lower directory", headers: one(hardlink("h", "d"))},
	{name: "hard link to nothing", headers: one(hardlink("h", "nothing"))},
	{name: "hard link to itself", headers: []tar.Header{file("h"), hardlink("h", "h")}},
	{name: "hard link to what it replaces", headers: []tar.Header{dir("n"), file("n/f"), hardlink("n", "n/f")}},
	{name: "hard link to a lower symlink", headers: one(hardlink("h", "out")), verdict: confined, want: []tree.Entry{tree.Hardlink("h", "out")}},
	{
		name: "hard link to a symlink then through it", headers: []tar.Header{symlink("l", canary), hardlink("h", "l"), file("h/evil")}, verdict: confined,
		want: []tree.Entry{tree.Symlink("l", canary), tree.Hardlink("h", "l"), tree.File(canary+"/evil", "")},
	},
	{name: "whiteout of nothing", headers: one(file(".wh."))},
	{name: "whiteout of dot", headers: one(file("d/.wh.."))},
	{name: "whiteout of dotdot", headers: one(file("d/.wh..."))},
	{name: "whiteout of dotdot at the root", headers: one(file(".wh..."))},
	{name: "below a whiteout", headers: one(file(".wh.d/evil"))},
	{name: "below an opaque marker", headers: []tar.Header{dir("d"), file("d/.wh..wh..opq/evil")}},
	{name: "whiteout as a directory", headers: one(dir(".wh.keep")), verdict: confined, want: []tree.Entry{tree.File("keep", "-")}},
	{name: "AUFS's own", headers: []tar.Header{file(".wh..wh.aufs"), dir(".wh..wh.plnk")}, verdict: confined},
	{name: "overlay's whiteout", headers: one(device("keep", tar.TypeChar, 0, 0))},
	{name: "device number too large", headers: one(device("dev", tar.TypeChar, 1<<12, 1))},
	{name: "minor number too large", headers: one(device("dev", tar.TypeBlock, 1, 1<<20))},
	{name: "unknown type", headers: one(tar.Header{Name: "evil", Typeflag: 'Z'})},
	{name: "contiguous file", headers: one(tar.Header{Name: "evil", Typeflag: tar.TypeCont})},
	{name: "symlink to nothing", headers: one(symlink("l", ""))},
	{name: "symlink too long", headers: one(symlink("l", strings.Repeat("x", 4096)))},
	{name: "component too long", headers: one(file(strings.Repeat("x", 256)))},
	{name: "whiteout too long", headers: one(file(".wh." + strings.Repeat("x", 256)))},
	{name: "path too long", headers: one(file(strings.Repeat("x/", 2000) + "x"))},
	{name: "nobody's user", headers: one(tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: math.MaxUint32})},
	{name: "negative group", headers: one(tar.Header{Name: "f", Typeflag: tar.TypeReg, Gid: -1})},
	{name: "file as a directory", headers: []tar.Header{file("f"), file("f/evil")}},
	{name: "lower file as a directory", headers: one(file("keep/evil"))},
	{
		name: "global header with a file's name", verdict: confined,
		headers: one(tar.Header{Name: "keep", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "keep", "uid": "7"}}),
	},
	{
		name: "attributes of overlayfs", verdict: confined, want: []tree.Entry{tree.Dir("d")},
		headers: one(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y",
		}}),
	},
	{name: "huge attribute name", headers: one(tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user." + strings.Repeat("x", 300): "y"}})},
	{name: "huge attribute", headers: one(tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("y", 1<<17)}})},
	{name: "slash", headers: one(file("x")), patch: func(a []byte) []byte { return reheader(a, func(h []byte) { h[0] = '/' }) }},
	{name: "NUL in a name", headers: one(file(strings.Repeat("n", 150) + "NUL")), patch: nul},
	{name: "NUL in a symlink", headers: one(symlink("l", strings.Repeat("n", 150)+"NUL")), patch: nul},
	{name: "NUL in a hard link", headers: one(hardlink("l", strings.Repeat("n", 150)+"NUL")), patch: nul},
	{name: "NUL in an attribute", headers: one(tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.NUL": "y"}}), patch: nul},
	{
		name: "huge pax record", headers: one(tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 2 << 20}),
		patch: func(a []byte) []byte { return reheader(a, func(h []byte) { h[156] = tar.TypeXHeader }) },
	},
	{
		name: "negative size", headers: one(file("f")),
		patch: func(a []byte) []byte {
			return reheader(a, func(h []byte) { copy(h[124:136], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0") })
		},
	},
}

// archive writes the headers, with the canary's place filled in.
func (c *hostileCase) archive(t testing.TB, place string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range c.headers {
		h.Name = strings.ReplaceAll(h.Name, canary, place)
		h.Linkname = strings.ReplaceAll(h.Linkname, canary, place)
		h.Format = tar.FormatPAX
		if h.Gid < 0 || h.Typeflag == 'Z' {
			h.Format = tar.FormatGNU
		}
		if h.Uid == 0 && h.Gid == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Uid, h.Gid = os.Geteuid(), os.Getegid()
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, Name: h.Name, PAXRecords: h.PAXRecords}
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	if c.patch != nil {
		return c.patch(buf.Bytes())
	}
	return buf.Bytes()
}

// outside is a directory beside a tree, to be found unchanged.
type outside struct {
	dir    string
	before tree.Tree
}

func newOutside(t testing.TB, root string) *outside {
	t.Helper()
	o := &outside{dir: filepath.Join(root, "canary")}
	require.NoError(t, os.Mkdir(o.dir, 0o755))
	testutil.WriteTree(t, o.dir, tree.File("file", "untouched", tree.Time(nanos)), tree.Dir("."))
	o.before = testutil.ReadTree(t, o.dir)
	return o
}

func (o *outside) requireUntouched(t testing.TB) {
	t.Helper()
	testutil.DiffTree(t, o.before, testutil.ReadTree(t, o.dir))
}

// fill puts the canary's place into entries.
func (o *outside) fill(entries []tree.Entry) []tree.Entry {
	out := make([]tree.Entry, len(entries))
	for i, e := range entries {
		e.Path = strings.TrimPrefix(strings.ReplaceAll(e.Path, canary, o.dir), "/")
		e.Target = strings.ReplaceAll(e.Target, canary, o.dir)
		out[i] = e
	}
	return out
}

// run unpacks the archive with what unpack does, on a tree that prepare has made of the base, and checks the verdict.
func (c *hostileCase) run(t *testing.T, prepare func(t *testing.T, base []tree.Entry) []mount.Mount, read func(t *testing.T, mounts []mount.Mount, fn func(dir string))) {
	t.Helper()
	o := newOutside(t, t.TempDir())
	store := &blobs{}
	desc := store.put(c.archive(t, o.dir), layerType)
	mounts := prepare(t, o.fill(hostileBase))
	_, err := apply.New(store).Apply(t.Context(), desc, mounts)
	o.requireUntouched(t)
	require.Zero(t, store.open)
	if c.verdict == refused {
		require.Truef(t, errdefs.IsInvalidArgument(err), "%v", err)
		require.Less(t, len(err.Error()), 2000)
		return
	}
	require.NoError(t, err)
	want := map[string]tree.Entry{}
	var order []tree.Entry
	for _, e := range o.fill(append(hostileBase[:len(hostileBase):len(hostileBase)], c.want...)) {
		want[e.Path] = e
	}
	for _, e := range o.fill(append(hostileBase[:len(hostileBase):len(hostileBase)], c.want...)) {
		if w, ok := want[e.Path]; ok && w.Data != "-" {
			order = append(order, w)
			delete(want, e.Path)
		}
	}
	read(t, mounts, func(dir string) { testutil.RequireTree(t, dir, order...) })
}

// TestHostileOnPlainDirectory: what archives that mean harm get on native, also without privileges (fault 42, fault 43).
func TestHostileOnPlainDirectory(t *testing.T) {
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, plainMounts, readPlain)
		})
	}
}

func plainMounts(t *testing.T, base []tree.Entry) []mount.Mount {
	t.Helper()
	root := filepath.Join(t.TempDir(), "fs")
	require.NoError(t, os.Mkdir(root, 0o755))
	testutil.WriteTree(t, root, base...)
	return bind(root)
}

func readPlain(_ *testing.T, mounts []mount.Mount, fn func(dir string)) { fn(mounts[0].Source) }

// TestBadStreams: a stream that is cut off or damaged, in the archive or around it, is an error, and a media type that says something else
// than the stream's first bytes is not (scenario S-11, fault 43).
func TestBadStreams(t *testing.T) {
	archive := pack(t, tree.Dir("d"), tree.File("d/f", mebibyte), tree.File("g", "x"))
	flipped := bytes.Clone(archive)
	flipped[0] ^= 0xff // the header's checksum does not hold any more
	invalid := map[string][]byte{
		"archive, cut in a file": archive[:len(archive)/2], "archive, cut in a header": archive[:100], "archive, damaged": flipped,
		"gzip, cut": gz(t, archive)[:200], "gzip of a cut archive": gz(t, archive[:len(archive)/2]), "zstd, cut": zst(t, archive)[:100], "text": bytes.Repeat([]byte("no archive "), 100),
		"gzip, garbage behind": append(gz(t, archive), "garbage"...), "gzip in gzip": gz(t, gz(t, archive)),
	}
	for name, data := range invalid {
		t.Run(name, func(t *testing.T) {
			store := &blobs{}
			desc := store.put(data, layerType+"+gzip")
			_, err := apply.New(store).Apply(t.Context(), desc, bind(t.TempDir()))
			require.Truef(t, errdefs.IsInvalidArgument(err), "%v", err)
			require.ErrorContains(t, err, desc.Digest.String())
			require.Zero(t, store.open)
		})
	}
	for _, mediaType := range []string{layerType, layerType + "+gzip", layerType + "+zstd", "application/vnd.docker.image.rootfs.diff.tar.gzip"} {
		for name, data := range map[string][]byte{"plain": archive, "gzip": gz(t, archive), "zstd": zst(t, archive)} {
			t.Run(name+" as "+strings.ReplaceAll(mediaType, "/", "_"), func(t *testing.T) {
				store := &blobs{}
				got, err := apply.New(store).Apply(t.Context(), store.put(data, mediaType), bind(t.TempDir()))
				require.NoError(t, err)
				requireDiffID(t, archive, got)
			})
		}
	}
	for _, mediaType := range []string{"", "text/plain", "application/vnd.oci.image.config.v1+json", layerType + "+gzip+encrypted", layerType + "+lz4"} {
		store := &blobs{}
		_, err := apply.New(store).Apply(t.Context(), store.put(archive, mediaType), bind(t.TempDir()))
		require.Truef(t, errdefs.IsInvalidArgument(err), "%q: %v", mediaType, err)
		require.Zero(t, store.open)
	}
}

// FuzzApply: whatever the bytes, nothing outside of the tree changes, nothing panics, and an error has a category (fault 42, fault 43).
func FuzzApply(f *testing.F) {
	for _, c := range hostileCases {
		f.Add(c.archive(f, "/canary"))
	}
	for _, c := range layerCases {
		if data := pack(f, c.layer...); len(data) < 1<<16 {
			f.Add(data)
			f.Add(gz(f, data))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		root := t.TempDir()
		o := newOutside(t, root)
		target := filepath.Join(root, "a", "b", "fs")
		require.NoError(t, os.MkdirAll(target, 0o755))
		testutil.WriteTree(t, target, tree.Symlink("out", o.dir), tree.Symlink("canary", "../../../canary"), tree.Dir("d"))
		store := &blobs{}
		_, err := apply.New(store, apply.SquashOwners()).Apply(t.Context(), store.put(data, layerType), bind(target))
		o.requireUntouched(t)
		for _, dir := range []string{root, filepath.Join(root, "a"), filepath.Join(root, "a", "b")} {
			entries, rerr := os.ReadDir(dir)
			require.NoError(t, rerr)
			want := map[string]int{root: 2}[dir]
			require.Len(t, entries, max(want, 1))
		}
		require.Zero(t, store.open)
		if err != nil {
			known := errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err) || errdefs.IsFailedPrecondition(err)
			require.Truef(t, known, "%v", err)
		}
	})
}
