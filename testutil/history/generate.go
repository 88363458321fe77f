package history

import (
	"slices"

	"pgregory.net/rapid"
)

// Features are what the system lets a test do. The zero value is right for an ordinary user in a plain directory
// without extended attributes.
type Features struct {
	// Owners are the numbers of users and groups that files can be given to.
	Owners []int
	// Devices says that device nodes can be made.
	Devices bool
	// Xattrs names the attributes that can be set.
	Xattrs []string
	// Modes are those of files and directories.
	Modes []uint32
}

// For returns the history without the operations that the features do not allow.
func (h History) For(f Features) History {
	out := slices.Clone(h)
	for i := range out {
		out[i].Ops = slices.DeleteFunc(slices.Clone(out[i].Ops), func(op Op) bool {
			return (op.Do == Char || op.Do == Block) && !f.Devices || op.Owner != 0 && !slices.Contains(f.Owners, op.Owner) ||
				op.Xattr != "" && !slices.Contains(f.Xattrs, op.Xattr) || op.Mode != 0 && !slices.Contains(f.Modes, op.Mode)
		})
	}
	return out
}

var (
	// components are few, so that operations meet.
	components = []string{"a", "b", "c", "d", "LONG", "BYTES", "LINE", "é"}
	targets    = []string{"a", "b", "../a", "a/b", "/etc", "..", "nowhere/at/all", "."}
)

// Generate draws a history that ends with a merge.
func Generate(t *rapid.T, f Features) History {
	g := generator{T: t, f: f}
	var h History
	for range rapid.IntRange(1, 6).Draw(t, "steps") {
		if len(h) > 1 && g.one(4, "merge") {
			h = append(h, g.merge(h))
		} else {
			h = append(h, g.layer(h))
		}
	}
	return append(h, g.merge(h))
}

type generator struct {
	*rapid.T
	f Features
}

// one draws true once in n times; what shrinks becomes false.
func (g generator) one(n int, label string) bool {
	return rapid.IntRange(0, n-1).Draw(g.T, label) == n-1
}

// snapshot draws a number, the last ones and 0 more often.
func (g generator) snapshot(h History, label string) int {
	return rapid.IntRange(0, len(h)).Draw(g.T, label)
}

func (g generator) layer(h History) Step {
	parent := 0
	if len(h) > 0 {
		switch rapid.IntRange(0, 3).Draw(g.T, "parent") {
		case 0: // independent
		case 1:
			parent = g.snapshot(h, "parent snapshot")
		default:
			parent = len(h)
		}
	}
	return Step{Parent: parent, Ops: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Op { return generator{t, g.f}.op() }), 0, 9).Draw(g.T, "ops")}
}

// merge draws chains, pairs of anything, and the same once more.
func (g generator) merge(h History) Step {
	var diffs []Diff
	for range rapid.IntRange(1, 4).Draw(g.T, "parts") {
		switch rapid.IntRange(0, 4).Draw(g.T, "part") {
		case 0, 1:
			diffs = append(diffs, h.Chain(rapid.IntRange(1, len(h)).Draw(g.T, "chain"))...)
		case 2:
			diffs = append(diffs, Diff{Upper: g.snapshot(h, "upper")})
		case 3:
			diffs = append(diffs, Diff{g.snapshot(h, "lower"), g.snapshot(h, "upper")})
		case 4:
			if len(diffs) > 0 {
				diffs = append(diffs, diffs[rapid.IntRange(0, len(diffs)-1).Draw(g.T, "again")])
			}
		}
	}
	if len(diffs) == 0 {
		diffs = append(diffs, Diff{Upper: len(h)})
	}
	return Step{Diffs: diffs}
}

func (g generator) path(label string) string {
	p := ""
	for range rapid.SampledFrom([]int{1, 1, 2, 2, 2, 3, 3, 6}).Draw(g.T, label) {
		if p != "" {
			p += "/"
		}
		n := 2 // mostly a, b
		if g.one(4, "rare") {
			n = len(components) - 1
		}
		p += components[rapid.IntRange(0, n).Draw(g.T, "name")]
	}
	return p
}

func (g generator) op() Op {
	verbs := []Verb{
		Write, Write, Write, Mkdir, Mkdir, Symlink, Remove, Remove, Rename, Rename, Modify, Link, Link, Recreate, Recreate,
		Swap, Chmod, Touch, Fifo, Socket,
	}
	if len(g.f.Owners) > 0 {
		verbs = append(verbs, Chown)
	}
	if len(g.f.Xattrs) > 0 {
		verbs = append(verbs, SetXattr, SetXattr, SetXattr, DelXattr)
	}
	if g.f.Devices {
		verbs = append(verbs, Char, Block)
	}
	op := Op{Do: rapid.SampledFrom(verbs).Draw(g.T, "do"), Path: g.path("path")}
	if g.one(4, "whole second") {
		op.Second = rapid.IntRange(1, 2).Draw(g.T, "second")
	}
	switch op.Do {
	case Write, Modify:
		op.Size, op.Fill = rapid.SampledFrom([]int{0, 1, 1, 10, 5000, 70000}).Draw(g.T, "size"), rapid.IntRange(0, 3).Draw(g.T, "fill")
		op.Hole = op.Do == Write && g.one(12, "hole")
	case Symlink:
		op.To = rapid.SampledFrom(targets).Draw(g.T, "target")
	case Rename, Swap, Link:
		op.To = g.path("to")
	case Char, Block:
		op.Size = rapid.IntRange(1, 2).Draw(g.T, "minor")
	case SetXattr, DelXattr:
		op.Xattr, op.Quiet = rapid.SampledFrom(g.f.Xattrs).Draw(g.T, "xattr"), g.one(4, "quiet")
	case Chmod:
		op.Mode = rapid.SampledFrom(g.f.Modes).Draw(g.T, "mode")
	case Chown:
		op.Owner = rapid.SampledFrom(g.f.Owners).Draw(g.T, "owner")
	}
	switch op.Do {
	case Write, Mkdir, Recreate, Fifo, Char, Block, Socket, Symlink:
		if len(g.f.Owners) > 0 && g.one(4, "owned") {
			op.Owner = rapid.SampledFrom(g.f.Owners).Draw(g.T, "owner")
		}
		if op.Do != Symlink && g.one(3, "with mode") {
			op.Mode = rapid.SampledFrom(g.f.Modes).Draw(g.T, "mode")
		}
	}
	return op
}
