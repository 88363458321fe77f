package apply_test

import (
	"io/fs"
	"strings"
	"time"

	"github.com/layercache/cache/testutil/tree"
)

// layerCase is a layer on top of another tree, and what the two make.
type layerCase struct {
	name  string
	base  []tree.Entry
	layer []tree.Entry
	want  []tree.Entry
	// parent says that the layer cannot be unpacked without what lies below.
	parent bool
	// xattrs says that the filesystem has to have attributes for users.
	xattrs bool
}

var (
	long     = strings.Repeat("n", 255)
	nanos    = time.Unix(1_600_000_000, 123_456_789)
	mebibyte = strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: several buffers of everybody
)

// layerCases work for everybody: no owners, devices or file capabilities.
var layerCases = []layerCase{
	{
		name:  "plain",
		layer: []tree.Entry{tree.Dir("d"), tree.File("d/f", "x"), tree.Symlink("d/l", "f"), tree.File("top", mebibyte)},
		want:  []tree.Entry{tree.Dir("d"), tree.File("d/f", "x"), tree.Symlink("d/l", "f"), tree.File("top", mebibyte)},
	},
	{name: "empty", base: []tree.Entry{tree.File("f", "x")}, want: []tree.Entry{tree.File("f", "x")}},
	{
		name:  "deletion",
		base:  []tree.Entry{tree.File("a", "x"), tree.File("d/a", "x"), tree.File("d/b", "x"), tree.File("e/f/g", "x")},
		layer: []tree.Entry{tree.Whiteout("a"), tree.Dir("d"), tree.Whiteout("d/a"), tree.Whiteout("e"), tree.Whiteout("nothing")},
		want:  []tree.Entry{tree.Dir("d"), tree.File("d/b", "x")},
	},
	{
		name:  "opaque directory",
		base:  []tree.Entry{tree.File("d/a", "x"), tree.File("d/s/b", "x"), tree.File("e", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.Opaque("d"), tree.File("d/new", "y"), tree.Dir("d/s"), tree.File("d/s/c", "y")},
		want:  []tree.Entry{tree.Dir("d"), tree.File("d/new", "y"), tree.File("d/s/c", "y"), tree.File("e", "x")},
	},
	{
		name:  "opaque marker behind what it spares",
		base:  []tree.Entry{tree.File("d/a", "x"), tree.File("d/s/b", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.File("d/new", "y"), tree.Dir("d/s"), tree.File("d/s/c", "y"), tree.Opaque("d")},
		want:  []tree.Entry{tree.File("d/new", "y"), tree.File("d/s/c", "y")},
	},
	{
		name:  "opaque marker behind what no directory was listed for",
		base:  []tree.Entry{tree.File("d/a", "x"), tree.File("d/s/b", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.File("d/s/c", "y"), tree.Opaque("d")},
		want:  []tree.Entry{tree.File("d/s/c", "y")}, parent: true,
	},
	{
		name:  "opaque root",
		base:  []tree.Entry{tree.File("d/a", "x"), tree.File("b", "x")},
		layer: []tree.Entry{tree.File("c", "y"), tree.Opaque(".")},
		want:  []tree.Entry{tree.File("c", "y")}, parent: true,
	},
	{
		name:  "whiteout in an opaque directory",
		base:  []tree.Entry{tree.File("d/a", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.Opaque("d"), tree.Whiteout("d/a"), tree.File("d/b", "y")},
		want:  []tree.Entry{tree.File("d/b", "y")},
	},
	{
		name:  "whiteout in a directory that becomes opaque",
		base:  []tree.Entry{tree.File("d/a", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.Whiteout("d/a"), tree.Opaque("d"), tree.File("d/b", "y")},
		want:  []tree.Entry{tree.File("d/b", "y")},
	},
	{
		name: "whiteouts spare the layer's own",
		base: []tree.Entry{tree.File("f", "x"), tree.File("d/a", "x"), tree.File("e/a", "x"), tree.File("g/a", "x")},
		layer: []tree.Entry{
			tree.File("f", "y"), tree.Whiteout("f"), tree.Dir("d"), tree.File("d/b", "y"), tree.Whiteout("d"),
			tree.Whiteout("e"), tree.Dir("e"), tree.File("e/b", "y"), tree.Whiteout("g"), tree.Whiteout("g"), tree.File("g", "y"),
		},
		want: []tree.Entry{tree.File("f", "y"), tree.File("d/b", "y"), tree.File("e/b", "y"), tree.File("g", "y")},
	},
	{
		name:  "hard links",
		base:  []tree.Entry{tree.File("old", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.File("d/a", "y"), tree.Hardlink("b", "d/a"), tree.Symlink("l", "b"), tree.Hardlink("m", "l")},
		want:  []tree.Entry{tree.File("old", "x"), tree.File("d/a", "y"), tree.Hardlink("b", "d/a"), tree.Symlink("l", "b"), tree.Hardlink("m", "l")},
	},
	{
		name:  "hard link into a lower layer",
		base:  []tree.Entry{tree.Dir("d"), tree.File("d/old", "x")},
		layer: []tree.Entry{tree.Dir("d"), tree.Hardlink("d/new", "d/old")},
		want:  []tree.Entry{tree.File("d/old", "x"), tree.Hardlink("d/new", "d/old")}, parent: true,
	},
	{
		name:  "missing directory entry",
		base:  []tree.Entry{tree.Dir("d", tree.Mode(0o750)), tree.File("d/a", "x")},
		layer: []tree.Entry{tree.File("d/b", "y"), tree.File("n/e/w", "y")},
		want:  []tree.Entry{tree.Dir("d", tree.Mode(0o750)), tree.File("d/a", "x"), tree.File("d/b", "y"), tree.File("n/e/w", "y")}, parent: true,
	},
	{
		name:  "whiteout below a missing directory entry",
		base:  []tree.Entry{tree.Dir("d", tree.Mode(0o750)), tree.File("d/a", "x"), tree.File("d/b", "x")},
		layer: []tree.Entry{tree.Whiteout("d/a")},
		want:  []tree.Entry{tree.Dir("d", tree.Mode(0o750)), tree.File("d/b", "x")}, parent: true,
	},
	{
		name:  "symlinked parent in a lower layer",
		base:  []tree.Entry{tree.Dir("usr/lib"), tree.Symlink("lib", "usr/lib"), tree.Symlink("abs", "/usr/lib"), tree.Symlink("out", "../../usr/lib")},
		layer: []tree.Entry{tree.File("lib/a", "y"), tree.File("abs/b", "y"), tree.File("out/c", "y"), tree.Hardlink("lib/d", "abs/a")},
		want: []tree.Entry{
			tree.Symlink("lib", "usr/lib"), tree.Symlink("abs", "/usr/lib"), tree.Symlink("out", "../../usr/lib"),
			tree.File("usr/lib/a", "y"), tree.File("usr/lib/b", "y"), tree.File("usr/lib/c", "y"), tree.Hardlink("usr/lib/d", "usr/lib/a"),
		}, parent: true,
	},
	{
		name:  "symlinked parent of the layer",
		layer: []tree.Entry{tree.Dir("usr"), tree.Symlink("u", "usr"), tree.File("u/a", "y"), tree.Whiteout("u/a"), tree.Opaque("usr")},
		want:  []tree.Entry{tree.Symlink("u", "usr"), tree.File("usr/a", "y")}, parent: true,
	},
	{
		name:  "a directory for a symlink",
		base:  []tree.Entry{tree.File("usr/a", "x"), tree.Symlink("u", "usr")},
		layer: []tree.Entry{tree.Dir("u"), tree.File("u/b", "y")},
		want:  []tree.Entry{tree.File("usr/a", "x"), tree.File("u/b", "y")},
	},
	{
		name: "kinds replaced",
		base: []tree.Entry{
			tree.File("d2f/a", "x"), tree.File("f2d", "x"), tree.Symlink("l2f", "f2d"), tree.File("d2l/a", "x"), tree.File("f2f", "x"),
		},
		layer: []tree.Entry{
			tree.File("d2f", "y"), tree.Dir("f2d"), tree.File("f2d/a", "y"), tree.File("l2f", "y"), tree.Symlink("d2l", "f2d"), tree.File("f2f", "y"),
		},
		want: []tree.Entry{
			tree.File("d2f", "y"), tree.File("f2d/a", "y"), tree.File("l2f", "y"), tree.Symlink("d2l", "f2d"), tree.File("f2f", "y"),
		},
	},
	{
		name: "duplicate entries",
		base: []tree.Entry{tree.File("d/low", "x"), tree.File("e/low", "x")},
		layer: []tree.Entry{
			tree.File("f", "1"), tree.File("f", "2", tree.Mode(0o600)), tree.Dir("d", tree.Mode(0o700)), tree.File("d/a", "y"), tree.Dir("d", tree.Mode(0o711)),
			tree.File("e", "gone"), tree.Dir("e"), tree.File("e/a", "y"),
			tree.Dir("g", tree.Mode(0o700), tree.Time(nanos)), tree.File("g/a", "gone"), tree.File("g", "y", tree.Time(nanos.Add(time.Hour))),
			tree.Dir("h"), tree.Dir("h/i", tree.Time(nanos)), tree.Symlink("h", "d"),
		},
		want: []tree.Entry{
			tree.File("f", "2", tree.Mode(0o600)), tree.Dir("d", tree.Mode(0o711)), tree.File("d/low", "x"), tree.File("d/a", "y"),
			tree.File("e/a", "y"), tree.File("g", "y", tree.Time(nanos.Add(time.Hour))), tree.Symlink("h", "d"),
		},
	},
	{
		name: "modes",
		layer: []tree.Entry{
			tree.File("suid", "x", tree.Mode(0o755|fs.ModeSetuid)), tree.File("sgid", "x", tree.Mode(0o711|fs.ModeSetgid)), tree.Dir("tmp", tree.Mode(0o777|fs.ModeSticky)),
			tree.File("all", "x", tree.Mode(0o777)), tree.File("ro", "x", tree.Mode(0o444)), tree.Dir("private", tree.Mode(0o700)),
		},
		want: []tree.Entry{
			tree.File("suid", "x", tree.Mode(0o755|fs.ModeSetuid)), tree.File("sgid", "x", tree.Mode(0o711|fs.ModeSetgid)), tree.Dir("tmp", tree.Mode(0o777|fs.ModeSticky)),
			tree.File("all", "x", tree.Mode(0o777)), tree.File("ro", "x", tree.Mode(0o444)), tree.Dir("private", tree.Mode(0o700)),
		},
	},
	{
		name: "times",
		layer: []tree.Entry{
			tree.Dir("d", tree.Time(nanos)), tree.File("d/f", "x", tree.Time(nanos.Add(1))), tree.Symlink("d/l", "f", tree.Time(nanos.Add(2))),
			tree.File("old", "x", tree.Time(time.Unix(1, 5))), tree.File("new", "x", tree.Time(time.Unix(1<<33, 5))),
		},
		want: []tree.Entry{tree.File("d/f", "x"), tree.Symlink("d/l", "f"), tree.File("old", "x"), tree.File("new", "x")},
	},
	{
		name:  "fifo",
		layer: []tree.Entry{tree.Fifo("p", tree.Mode(0o640))},
		want:  []tree.Entry{tree.Fifo("p", tree.Mode(0o640))},
	},
	{
		name: "names",
		layer: []tree.Entry{
			tree.File(long, "x"), tree.Dir(long[1:]), tree.File(long[1:]+"/"+long, "x"), tree.File("a b\tc\nd", "x"), tree.File("\xff\xfe", "x"), tree.File("...", "x"), tree.File(".wx.", "x"),
			tree.Whiteout(long[2:]), tree.File(`back\slash`, "x"), tree.File("/abs", "x"), tree.File("./dot", "x"), tree.File("a/../b", "x"),
		},
		want: []tree.Entry{
			tree.File(long, "x"), tree.File(long[1:]+"/"+long, "x"), tree.File("a b\tc\nd", "x"), tree.File("\xff\xfe", "x"), tree.File("...", "x"), tree.File(".wx.", "x"),
			tree.File(`back\slash`, "x"), tree.File("abs", "x"), tree.File("dot", "x"), tree.File("b", "x"),
		},
	},
	{
		name:   "attributes",
		xattrs: true,
		layer: []tree.Entry{
			tree.File("f", "x", tree.Xattr("user.a", "1"), tree.Xattr("user.empty", ""), tree.Mode(0o444)), tree.Dir("d", tree.Xattr("user.b", "2")), tree.File("d/f", "x"),
			tree.Dir("o", tree.Xattr("trusted.overlay.opaque", "y"), tree.Xattr("user.overlay.redirect", "/d"), tree.Xattr("trusted.x", "y")),
		},
		want: []tree.Entry{
			tree.File("f", "x", tree.Xattr("user.a", "1"), tree.Xattr("user.empty", ""), tree.Mode(0o444)), tree.Dir("d", tree.Xattr("user.b", "2")), tree.File("d/f", "x"), tree.Dir("o"),
		},
	},
}
