package pruneplan

import "math/bits"

// point is a corner of the staircase: its time rank and its count rank. Along the staircase t ascends and c descends, both strictly.
type point struct{ t, c int32 }

func (p point) plus(q point) point { return point{p.t + q.t, p.c + q.c} }

// kind says which children of a node have corners below them.
type kind uint8

const (
	empty kind = iota
	leftOnly
	rightOnly
	both
	corner // a leaf that is one
)

// node is a node of a front's tree. Its points are off by the pending shifts of all nodes above it, but not by its own.
type node struct {
	// least is the lowest count that a column below shows, none if there is no column.
	least int32
	kind  kind
	// dirty says that something below has changed, so that kind, a, b and last are out of date. So are all nodes above.
	dirty bool
	// a and b are the ends of the bridge if kind is both: a is a corner of the left child, b of the right one, and no corner below
	// lies under the line through them. In a leaf both are the corner.
	a, b point
	// last is the time rank of the last corner.
	last int32
	// pending is a shift that the children do not have yet.
	pending point
}

func (n *node) setCorner(p point) {
	n.kind, n.a, n.b, n.last = corner, p, p, p.t
}

// shift moves all corners below.
func (n *node) shift(by point) {
	n.a, n.b, n.last = n.a.plus(by), n.b.plus(by), n.last+by.t
	n.pending = n.pending.plus(by)
}

// open prepares a node for a change below it.
func (f *front) open(i int) {
	*f.r.work++
	n := &f.nodes[i]
	n.dirty = true
	f.nodes[2*i].shift(n.pending)
	f.nodes[2*i+1].shift(n.pending)
	n.pending = point{}
}

// path opens all nodes above column k and returns its leaf, whose point is then the true one.
func (f *front) path(k int) *node {
	leaf := f.width + k
	for h := f.height; h > 0; h-- {
		f.open(leaf >> h)
	}
	return &f.nodes[leaf]
}

// shiftFrom shifts the columns from k on.
func (f *front) shiftFrom(k int, by point) {
	leaf := f.width + k
	for h := f.height; ; h-- {
		i := leaf >> h
		if i<<h == leaf {
			f.nodes[i].shift(by) // all of it
			return
		}
		f.open(i)
		if down := leaf >> (h - 1); down&1 == 0 {
			f.nodes[down+1].shift(by)
		}
	}
}

// shiftBefore shifts the columns before k.
func (f *front) shiftBefore(k int, by point) {
	leaf := f.width + k
	for h := f.height; ; h-- {
		i := leaf >> h
		if i<<h == leaf {
			return // nothing of it
		}
		f.open(i)
		if down := leaf >> (h - 1); down&1 == 1 {
			f.nodes[down-1].shift(by)
		}
	}
}

// lowest returns the first column with the lowest score, and that score. There is a corner, as the front is not empty.
func (f *front) lowest(maxTime, maxCount int32) (column int, score int64) {
	f.mend(1)
	at := cursor{i: 1}
	for {
		*f.r.work++
		n := &f.nodes[at.i]
		a, b := n.a.plus(at.off), n.b.plus(at.off)
		sa := int64(a.t)*int64(maxCount) + int64(a.c)*int64(maxTime)
		sb := int64(b.t)*int64(maxCount) + int64(b.c)*int64(maxTime)
		switch {
		case n.kind == corner:
			return at.i - f.width, sa
		case n.kind == leftOnly || n.kind == both && sa <= sb:
			at = f.left(at) // on the right nothing is below the line, which does not fall there
		default:
			at = f.right(at)
		}
	}
}

// mend brings the dirty nodes from i on up to date.
func (f *front) mend(i int) {
	n := &f.nodes[i]
	if !n.dirty {
		return
	}
	f.open(i)
	f.mend(2 * i)
	f.mend(2*i + 1)
	n.dirty = false
	l, r := &f.nodes[2*i], &f.nodes[2*i+1]
	switch {
	case l.kind == empty && r.kind == empty:
		n.kind = empty
	case r.kind == empty:
		n.kind, n.last = leftOnly, l.last
	case l.kind == empty:
		n.kind, n.last = rightOnly, r.last
	default:
		n.kind, n.last = both, r.last
		n.a, n.b = f.bridge(cursor{i: 2 * i}, cursor{i: 2*i + 1}, l.last)
	}
}

// cursor is a node and by how much its points are off.
type cursor struct {
	i   int
	off point
}

func (f *front) left(c cursor) cursor {
	return cursor{2 * c.i, c.off.plus(f.nodes[c.i].pending)}
}

func (f *front) right(c cursor) cursor {
	return cursor{2*c.i + 1, c.off.plus(f.nodes[c.i].pending)}
}

// settle goes down to the node that has corners on both sides, or is one.
func (f *front) settle(c cursor) cursor {
	for {
		switch f.nodes[c.i].kind {
		case leftOnly:
			c = f.left(c)
		case rightOnly:
			c = f.right(c)
		default:
			return c
		}
		*f.r.work++
	}
}

// bridge finds the line that touches the corners of both subtrees from below, by walking down both at once. mid is the time rank of
// the last corner of l.
//
// Each step leaves half of a subtree behind that the line does not need to touch. Let m be the bridge a-b of l, and n the bridge c-d of r. No
// corner of l lies under m. If c does, a line that touches l at b or later, being at least as steep upwards as m
// and not under it from there on, would have c under it. The same with b under n. If neither is the case, n is at least as steep
// upwards as m. A line that touches l at a or earlier then rises no more than m, is not above m at mid, and must touch r at c or earlier,
// since otherwise it would rise as n does at least; so it is above n at mid. If m is not above n there, it touches l at b or later, and if m
// is, it touches r at c or earlier, for the same reason seen from the other side.
func (f *front) bridge(l, r cursor, mid int32) (point, point) {
	for {
		*f.r.work++
		l, r = f.settle(l), f.settle(r)
		ln, rn := &f.nodes[l.i], &f.nodes[r.i]
		a, b := ln.a.plus(l.off), ln.b.plus(l.off)
		c, d := rn.a.plus(r.off), rn.b.plus(r.off)
		switch {
		case ln.kind == corner && rn.kind == corner:
			return b, c
		case ln.kind != corner && cross(a, b, c) < 0:
			l = f.left(l)
		case rn.kind != corner && cross(b, c, d) < 0:
			r = f.right(r)
		case ln.kind == corner:
			r = f.left(r)
		case rn.kind == corner || notAbove(a, b, c, d, mid):
			l = f.right(l)
		default:
			r = f.left(r)
		}
	}
}

// cross is negative if the way from p over q to s turns clockwise: s is under the line p-q, and p is under q-s.
func cross(p, q, s point) int64 {
	return int64(q.t-p.t)*int64(s.c-p.c) - int64(q.c-p.c)*int64(s.t-p.t)
}

// notAbove tells whether the line a-b is not above the line c-d at mid, which lies between b and c. Both fall.
func notAbove(a, b, c, d point, mid int32) bool {
	// b.c - (a.c-b.c)*(mid-b.t)/(b.t-a.t) <= c.c + (c.c-d.c)*(c.t-mid)/(d.t-c.t), where the products of
	// three ranks take more than 64 bits
	run1, run2 := int64(b.t-a.t), int64(d.t-c.t)
	x := int64(b.c-c.c)*run1 - int64(a.c-b.c)*int64(mid-b.t)
	y := int64(c.c-d.c) * int64(c.t-mid)
	if x <= 0 {
		return true
	}
	xh, xl := bits.Mul64(uint64(x), uint64(run2))
	yh, yl := bits.Mul64(uint64(y), uint64(run1))
	return xh < yh || xh == yh && xl <= yl
}
