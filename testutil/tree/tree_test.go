package tree_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

var stamp = time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)

func mustWrite(t *testing.T, entries ...tree.Entry) string {
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	return dir
}

func mustRead(t *testing.T, dir string) tree.Tree {
	got, err := tree.Read(dir)
	require.NoError(t, err)
	return got
}

// TestRoundTrip reads back what was written, with all that an entry can have, and modes that a umask
// or a read-only parent would spoil.
func TestRoundTrip(t *testing.T) {
	got := mustRead(t, mustWrite(t,
		tree.File("a/b/file", "text", tree.Mode(0o666|fs.ModeSetuid), tree.Time(stamp)),
		tree.Dir("a/b", tree.Mode(0o700), tree.Time(stamp)),
		tree.Dir("sticky", tree.Mode(0o777|fs.ModeSticky)),
		tree.Symlink("a/link", "b/nowhere", tree.Time(stamp)),
		tree.Hardlink("a/other", "a/b/file"),
		tree.Fifo("pipe", tree.Mode(0o600)),
		tree.Dir("."),
	))
	for path, want := range map[string]tree.Entry{
		"a/b/file": {Path: "a/b/file", Kind: tree.KindFile, Mode: 0o666 | fs.ModeSetuid, Data: "text", ModTime: stamp},
		"a/b":      {Path: "a/b", Kind: tree.KindDir, Mode: 0o700, ModTime: stamp},
		"sticky":   {Path: "sticky", Kind: tree.KindDir, Mode: 0o777 | fs.ModeSticky, ModTime: got["sticky"].ModTime},
		"a/link":   {Path: "a/link", Kind: tree.KindSymlink, Target: "b/nowhere", ModTime: stamp},
		"a/other":  {Path: "a/other", Kind: tree.KindHardlink, Target: "a/b/file"},
		"pipe":     {Path: "pipe", Kind: tree.KindFifo, Mode: 0o600, ModTime: got["pipe"].ModTime},
	} {
		require.Empty(t, tree.Diff(tree.Tree{path: want}, tree.Tree{path: got[path]}, tree.Owners), path)
	}
	require.Len(t, got, 8)
	require.Equal(t, os.Getuid(), got["a/b/file"].UID)
}

// TestXattr: attributes are written and read.
func TestXattr(t *testing.T) {
	dir := t.TempDir()
	need.Xattr(t, dir)
	require.NoError(t, tree.Write(dir, tree.File("f", "", tree.Xattr("user.a", "1"), tree.Xattr("user.b", ""), tree.Mode(0o400))))
	require.Equal(t, map[string]string{"user.a": "1", "user.b": ""}, mustRead(t, dir)["f"].Xattrs)
}

// TestDevices: what only root can make.
func TestDevices(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir,
		tree.Char("c", 1, 3, tree.Owner(12, 34)), tree.Block("b", 7, 300, tree.Mode(0o600)),
		tree.File("suid", "", tree.Owner(1, 2), tree.Mode(0o755|fs.ModeSetuid)), tree.Symlink("l", "x", tree.Owner(3, 4))))
	got := mustRead(t, dir)
	require.Equal(t, [2]uint32{1, 3}, [2]uint32{got["c"].Major, got["c"].Minor})
	require.Equal(t, tree.KindChar, got["c"].Kind)
	require.Equal(t, [2]int{12, 34}, [2]int{got["c"].UID, got["c"].GID})
	require.Equal(t, [2]uint32{7, 300}, [2]uint32{got["b"].Major, got["b"].Minor})
	require.Equal(t, tree.KindBlock, got["b"].Kind)
	require.Equal(t, fs.ModeSetuid|0o755, got["suid"].Mode, "a new owner clears setuid if it comes last")
	require.Equal(t, 3, got["l"].UID)
}

// TestDiff: each aspect in which two trees can differ is found, and left out on request.
func TestDiff(t *testing.T) {
	base := []tree.Entry{tree.File("f", "x", tree.Time(stamp)), tree.Dir("d", tree.Time(stamp)), tree.Symlink("l", "f", tree.Time(stamp)), tree.Dir(".", tree.Time(stamp))}
	for name, tc := range map[string]struct {
		change func(tree.Tree)
		want   []string
		except []tree.Aspect
	}{
		"equal":      {func(tree.Tree) {}, nil, nil},
		"missing":    {func(t tree.Tree) { delete(t, "f") }, []string{"f: file is missing"}, nil},
		"unexpected": {func(t tree.Tree) { t["g"] = tree.File("g", "") }, []string{"g: unexpected file"}, nil},
		"kind":       {func(t tree.Tree) { t["f"] = tree.Dir("f") }, []string{"f: directory instead of file"}, nil},
		"content":    {change("f", func(e *tree.Entry) { e.Data = "y" }), []string{`f: content is "y" instead of "x"`}, nil},
		"target":     {change("l", func(e *tree.Entry) { e.Target = "g" }), []string{"l: target is g instead of f"}, nil},
		"mode":       {change("f", func(e *tree.Entry) { e.Mode = 0o600 }), []string{"f: mode is -rw------- instead of -rw-r--r--"}, nil},
		"device":     {change("f", func(e *tree.Entry) { e.Minor = 1 }), []string{"f: device is [0 1] instead of [0 0]"}, nil},
		"xattr":      {change("d", func(e *tree.Entry) { e.Xattrs = map[string]string{"user.a": "1"} }), []string{"d: attributes is map[user.a:1] instead of map[]"}, nil},
		"root":       {change(".", func(e *tree.Entry) { e.Mode = 0 }), []string{".: mode is ---------- instead of -rwxr-xr-x"}, nil},
		"no root":    {change(".", func(e *tree.Entry) { e.Mode = 0 }), nil, []tree.Aspect{tree.Root}},
		"no owner":   {change("f", func(e *tree.Entry) { e.UID++ }), nil, []tree.Aspect{tree.Owners}},
		"no time":    {change("f", func(e *tree.Entry) { e.ModTime = stamp.Add(1) }), nil, []tree.Aspect{tree.Times}},
		"no dirtime": {change("d", func(e *tree.Entry) { e.ModTime = stamp.Add(1) }), nil, []tree.Aspect{tree.DirTimes}},
		"file time":  {change("f", func(e *tree.Entry) { e.ModTime = stamp.Add(1) }), []string{"f: time is 2020-02-03 04:05:06.00000079 +0000 UTC instead of 2020-02-03 04:05:06.000000789 +0000 UTC"}, []tree.Aspect{tree.DirTimes}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mustWrite(t, base...)
			want, got := mustRead(t, dir), mustRead(t, mustWrite(t, base...))
			for _, tr := range []tree.Tree{want, got} {
				for path, e := range tr {
					e.ModTime = e.ModTime.UTC()
					tr[path] = e
				}
			}
			tc.change(got)
			require.Equal(t, tc.want, tree.Diff(want, got, tc.except...))
		})
	}
}

func change(path string, fn func(*tree.Entry)) func(tree.Tree) {
	return func(t tree.Tree) {
		e := t[path]
		fn(&e)
		t[path] = e
	}
}

// TestLinksAside: with the aspect Links a file that was copied equals a linked one, without it it does not.
func TestLinksAside(t *testing.T) {
	linked := mustRead(t, mustWrite(t, tree.File("f", "x", tree.Time(stamp)), tree.Hardlink("g", "f")))
	copied := mustRead(t, mustWrite(t, tree.File("f", "x", tree.Time(stamp)), tree.File("g", "x", tree.Time(stamp))))
	require.Equal(t, []string{"g: file instead of hard link"}, tree.Diff(linked, copied, tree.Root))
	require.Empty(t, tree.Diff(linked, copied, tree.Root, tree.Links))
	other := mustRead(t, mustWrite(t, tree.File("f", "x", tree.Time(stamp)), tree.File("g", "y", tree.Time(stamp))))
	require.Equal(t, []string{`g: content is "y" instead of "x"`}, tree.Diff(linked, other, tree.Root, tree.Links))
	e, ok := linked.Resolve("g")
	require.True(t, ok)
	require.Equal(t, tree.KindFile, e.Kind)
	require.Equal(t, "g", e.Path)
	_, ok = linked.Resolve("h")
	require.False(t, ok)
}

// TestNothingIsInherited: a default ACL and the setgid bit of a directory do not reach what is declared in it, and what was
// read can be written again.
func TestNothingIsInherited(t *testing.T) {
	need.Root(t)
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux for ACLs and sockets")
	}
	// user::rwx, user:7:rwx, group::r-x, mask::rwx, other::---
	const acl = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x07\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	dir := mustWrite(t,
		tree.Dir("d", tree.Mode(0o775|fs.ModeSetgid), tree.Owner(1, 2), tree.Xattr("system.posix_acl_default", acl), tree.Time(stamp)),
		tree.Dir("d/e"), tree.File("d/f", "x", tree.Owner(3, 4)), tree.Socket("d/s"))
	got := mustRead(t, dir)
	require.Equal(t, map[string]string{"system.posix_acl_default": acl}, got["d"].Xattrs)
	for _, path := range []string{"d/e", "d/f", "d/s"} {
		require.Empty(t, got[path].Xattrs, path)
		require.Zero(t, got[path].Mode&fs.ModeSetgid, path)
		require.NotEqual(t, 2, got[path].GID, path)
	}
	require.Equal(t, tree.KindSocket, got["d/s"].Kind)
	require.Empty(t, tree.Diff(got, mustRead(t, mustWrite(t, got.Entries()...)), tree.Root))
}

// TestWriteErrors: what cannot be written is an error, and nothing is overwritten.
func TestWriteErrors(t *testing.T) {
	for name, entries := range map[string][]tree.Entry{
		"outside":        {tree.File("../f", "")},
		"absolute":       {tree.File("/f", "")},
		"target outside": {tree.Hardlink("f", "../g")},
		"whiteout":       {tree.Whiteout("f")},
		"other":          {{Path: "s", Kind: tree.KindOther}},
	} {
		require.True(t, errdefs.IsInvalidArgument(tree.Write(t.TempDir(), entries...)), name)
	}
	require.ErrorIs(t, tree.Write(t.TempDir(), tree.File("f", ""), tree.File("f", "")), fs.ErrExist)
	require.ErrorIs(t, tree.Write(t.TempDir(), tree.File("f", ""), tree.Dir("f")), fs.ErrExist)
	_, err := tree.Read(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestTar unpacks an archive with containerd and compares with the tree written directly; whiteouts act
// on the layer below.
func TestTar(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux for containerd's unpacking")
	}
	owner := tree.Owner(os.Getuid(), os.Getgid())
	layer := []tree.Entry{
		tree.Dir("d", tree.Mode(0o700), owner, tree.Time(stamp)),
		tree.File("d/f", "text", tree.Mode(0o755|fs.ModeSetgid), owner, tree.Time(stamp)),
		tree.Hardlink("d/g", "d/f"),
		tree.Symlink("d/l", "f", owner, tree.Time(stamp)),
		tree.Fifo("d/p", owner, tree.Time(stamp)),
	}
	data, err := tree.Tar(append(layer, tree.Whiteout("gone"), tree.Opaque("opaque"))...)
	require.NoError(t, err)
	again, err := tree.Tar(append(layer, tree.Whiteout("gone"), tree.Opaque("opaque"))...)
	require.NoError(t, err)
	require.Equal(t, data, again)

	dir := mustWrite(t, tree.File("gone", ""), tree.File("opaque/old", ""), tree.File("kept", ""))
	_, err = archive.Apply(t.Context(), dir, bytes.NewReader(data))
	require.NoError(t, err)
	want := mustWrite(t, append(layer, tree.Dir("opaque"), tree.File("kept", ""))...)
	require.NoError(t, tree.Write(want, tree.Dir("d", tree.Mode(0o700), tree.Time(stamp))))
	require.Empty(t, filter(tree.Diff(mustRead(t, want), mustRead(t, dir), tree.Root, tree.DirTimes), "kept"))

	_, err = tree.Tar(tree.Entry{Path: "s", Kind: tree.KindSocket})
	require.True(t, errdefs.IsInvalidArgument(err))
	empty, err := tree.Tar()
	require.NoError(t, err)
	_, err = tar.NewReader(bytes.NewReader(empty)).Next()
	require.ErrorIs(t, err, io.EOF)
}

// filter leaves out the time of an entry that both sides got when they were made.
func filter(diffs []string, path string) (rest []string) {
	for _, d := range diffs {
		if len(d) < len(path)+6 || d[:len(path)+6] != path+": time" {
			rest = append(rest, d)
		}
	}
	return rest
}
