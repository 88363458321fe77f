package metadata

import (
	"bytes"
	"io"

	"github.com/pkg/errors"
)

// node is a page that was found to be in order, all of it in memory.
type node struct {
	id, pages uint64 // where it is and how many pages it extends over
	branch    bool
	elems     []elem
	end       int // of the last of them, in bytes from the start
}

// elem is an element of a page. key and value alias the page.
type elem struct {
	key, value []byte
	child      uint64 // of a branch
	bucket     bool   // the value is the head of a bucket
}

// parseNode takes the bytes of a page apart. A page with anything wrong in it is refused as a
// whole: where one length is damaged nothing says that the others are not.
func parseNode(b []byte) (n node, ok bool) {
	if len(b) < pageHeader {
		return n, false
	}
	n.id, n.pages = order.Uint64(b), uint64(order.Uint32(b[12:]))+1
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	n.branch = flags == branchPage
	end := pageHeader + count*elemHeader
	if !n.branch && flags != leafPage || n.branch && count == 0 || end > len(b) {
		return n, false
	}
	n.elems = make([]elem, 0, count)
	for i := range count {
		at := pageHeader + i*elemHeader
		e, used := parseElem(b, at, end, n.branch)
		if used == 0 || i > 0 && bytes.Compare(n.elems[i-1].key, e.key) >= 0 {
			return n, false
		}
		end += used
		n.elems = append(n.elems, e)
	}
	n.end = end
	return n, true
}

// parseElem takes the element at a place apart, whose key and value must begin at another. used
// is their length, 0 if it is not in order.
func parseElem(b []byte, at, data int, branch bool) (e elem, used int) {
	h := b[at : at+elemHeader]
	var pos, keyLen, valueLen uint64
	if branch {
		pos, keyLen, e.child = uint64(order.Uint32(h)), uint64(order.Uint32(h[4:])), order.Uint64(h[8:])
	} else {
		pos, keyLen, valueLen = uint64(order.Uint32(h[4:])), uint64(order.Uint32(h[8:])), uint64(order.Uint32(h[12:]))
		e.bucket = order.Uint32(h) == bucketElem
		if order.Uint32(h) > bucketElem {
			return e, 0
		}
	}
	if keyLen == 0 || uint64(at)+pos != uint64(data) || keyLen+valueLen > uint64(len(b)-data) {
		return e, 0
	}
	e.key = b[data : data+int(keyLen)]
	e.value = b[data+int(keyLen) : data+int(keyLen+valueLen)]
	if e.bucket && !bucketInOrder(e.value) {
		return e, 0
	}
	return e, len(e.key) + len(e.value)
}

// bucketInOrder tells whether the head of a bucket can be one. Only buckets without buckets in
// them lie within the page of their parent.
func bucketInOrder(b []byte) bool {
	switch {
	case len(b) < bucketHead:
		return false
	case order.Uint64(b) != 0:
		return len(b) == bucketHead
	}
	n, ok := parseNode(b[bucketHead:])
	if !ok || n.branch {
		return false
	}
	for _, e := range n.elems {
		if e.bucket {
			return false
		}
	}
	return true
}

// bitset is a set of page numbers.
type bitset []uint64

func newBitset(n uint64) bitset      { return make(bitset, n/64+1) }
func (s bitset) has(id uint64) bool  { return s[id/64]&(1<<(id%64)) != 0 }
func (s bitset) add(id uint64)       { s[id/64] |= 1 << (id % 64) }
func (s bitset) hasAny(n *node) bool { return s.any(n.id, n.pages) }
func (s bitset) addAll(n *node)      { s.addRange(n.id, n.pages) }
func (s bitset) addRange(id, n uint64) {
	for end := id + n; id < end; id++ {
		s.add(id)
	}
}

func (s bitset) any(id, n uint64) bool {
	for end := id + n; id < end; id++ {
		if s.has(id) {
			return true
		}
	}
	return false
}

// reader reads what can be read of a damaged file, page by page and never through a mapping. It
// first claims all pages that the root leads to, and believes none that is claimed twice: of
// two that point to one page one is wrong, and nothing tells which.
type reader struct {
	f     io.ReaderAt
	meta  boltMeta
	limit uint64 // pages that there can be something in

	claimed  bitset
	disputed bitset
	free     bitset // pages of the free list; nil if there is none to be trusted
	lost     map[uint64]bool
}

func newReader(f io.ReaderAt, size int64, meta boltMeta) *reader {
	limit := min(meta.pages, uint64(size/meta.pageSize))
	return &reader{
		f: f, meta: meta, limit: limit, lost: map[uint64]bool{},
		claimed: newBitset(limit), disputed: newBitset(limit),
	}
}

// read reads a page with those it extends over. It is not ok if anything about it is wrong; an
// error is a failure to read, after which nothing is known.
func (r *reader) read(id uint64) (n node, ok bool, err error) {
	if id < 2 || id >= r.limit {
		return n, false, nil
	}
	at := int64(id) * r.meta.pageSize
	var head [pageHeader]byte
	if _, err := r.f.ReadAt(head[:], at); err != nil {
		return n, false, errors.Wrapf(err, "reading page %d", id)
	}
	pages := uint64(order.Uint32(head[12:])) + 1
	if order.Uint64(head[:]) != id || pages > r.limit-id {
		return n, false, nil
	}
	b := make([]byte, int64(pages)*r.meta.pageSize)
	if _, err := r.f.ReadAt(b, at); err != nil {
		return n, false, errors.Wrapf(err, "reading page %d", id)
	}
	if n, ok = parseNode(b); ok {
		ok = !r.holed(b, n.end)
	}
	return n, ok, nil
}

// holed tells whether one of the pages that a page extends over has nothing but zeroes where
// there should be values. A value may have them, but it is likelier that the page was lost.
func (r *reader) holed(b []byte, end int) bool {
	size := int(r.meta.pageSize)
	for at := size; at+size <= end; at += size {
		if len(bytes.Trim(b[at:at+size], "\x00")) == 0 {
			return true
		}
	}
	return false
}

// fits tells whether a page has the keys that its parent says.
func (n *node) fits(w within) bool {
	if len(n.elems) == 0 {
		return w.low == nil
	}
	last := n.elems[len(n.elems)-1].key
	return (w.low == nil || bytes.Equal(n.elems[0].key, w.low)) && (w.high == nil || bytes.Compare(last, w.high) < 0)
}

// below returns where the i-th page below a branch is.
func (n *node) below(i int, w within) within {
	w.low = n.elems[i].key
	if i+1 < len(n.elems) {
		w.high = n.elems[i+1].key
	}
	return w
}

// claim marks a page and all below it, and where it meets one that is marked already both
// claims are disputed.
func (r *reader) claim(id uint64, w within, depth int) error {
	if depth >= maxTreeDepth || id < r.limit && r.disputed.has(id) {
		return nil
	}
	n, ok, err := r.read(id)
	if err != nil || !ok || !n.fits(w) {
		return err
	}
	if r.claimed.hasAny(&n) || r.free != nil && r.free.hasAny(&n) {
		r.disputed.addAll(&n)
		return nil
	}
	r.claimed.addAll(&n)
	for i, e := range n.elems {
		if n.branch {
			err = r.claim(e.child, n.below(i, w), depth+1)
		} else {
			err = r.claimBucket(e, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claimBucket claims the pages of a bucket, if the element is one that has any.
func (r *reader) claimBucket(e elem, depth int) error {
	if !e.bucket {
		return nil
	}
	if root := order.Uint64(e.value); root != 0 {
		return r.claim(root, within{}, depth)
	}
	return nil
}

// gap is a range of keys of a bucket that cannot be read.
type gap = within

// walk calls visit for each element of the tree below a page and lose for each part of it that
// cannot be read.
func (r *reader) walk(id uint64, w within, visit func(elem) error, lose func(gap)) error {
	// That it must be claimed bounds the walk: it comes by each page once.
	ok := id < r.limit && r.claimed.has(id) && !r.disputed.has(id)
	var n node
	if ok {
		var err error
		if n, ok, err = r.read(id); err != nil {
			return err
		}
	}
	if !ok || !n.fits(w) || r.disputed.hasAny(&n) {
		r.lost[id] = true
		lose(w)
		return nil
	}
	var err error
	for i, e := range n.elems {
		if n.branch {
			err = r.walk(e.child, n.below(i, w), visit, lose)
		} else {
			err = visit(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// walkBucket does the same for the bucket that an element holds.
func (r *reader) walkBucket(e elem, visit func(elem) error, lose func(gap)) error {
	if root := order.Uint64(e.value); root != 0 {
		return r.walk(root, within{}, visit, lose)
	}
	n, _ := parseNode(e.value[bucketHead:]) // was in order when its page was read
	for _, e := range n.elems {
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// content is a bucket in memory.
type content struct {
	sequence uint64
	elems    []contentElem
}

type contentElem struct {
	key, value []byte
	bucket     *content // instead of a value
}

// load reads a bucket with all that is in it. It is complete only if every page of it is.
func (r *reader) load(e elem, depth int) (c *content, complete bool, err error) {
	if depth >= maxTreeDepth {
		return nil, false, nil
	}
	c, complete = &content{sequence: order.Uint64(e.value[8:])}, true
	err = r.walkBucket(e, func(e elem) error {
		if !storable(e.key) {
			complete = false
		}
		if !e.bucket {
			c.elems = append(c.elems, contentElem{key: e.key, value: e.value})
			return nil
		}
		sub, whole, err := r.load(e, depth+1)
		complete = complete && whole
		c.elems = append(c.elems, contentElem{key: e.key, bucket: sub})
		return err
	}, func(gap) { complete = false })
	return c, complete, err
}

// freelist reads the free list and trusts it if it names each page once, in order, and none
// that is in use. A page that is free and in use at once is believed in neither role.
func (r *reader) freelist() error {
	if r.meta.freelist == noFreelist {
		return nil
	}
	ids, pages, ok, err := r.readFreelist()
	if err != nil || !ok {
		return err
	}
	free := newBitset(r.limit)
	for _, id := range ids {
		switch {
		case id >= r.limit:
		case r.claimed.has(id):
			r.disputed.add(id)
			ok = false
		default:
			free.add(id)
		}
	}
	if r.claimed.any(r.meta.freelist, pages) {
		r.disputed.addRange(r.meta.freelist, pages)
		ok = false
	}
	if ok {
		free.addRange(r.meta.freelist, pages)
		r.free = free
	}
	return nil
}

func (r *reader) readFreelist() (ids []uint64, pages uint64, ok bool, err error) {
	id := r.meta.freelist
	if id < 2 || id >= r.limit {
		return nil, 0, false, nil
	}
	at := int64(id) * r.meta.pageSize
	head := make([]byte, pageHeader+8)
	if _, err := r.f.ReadAt(head, at); err != nil {
		return nil, 0, false, errors.Wrapf(err, "reading page %d", id)
	}
	pages = uint64(order.Uint32(head[12:])) + 1
	if order.Uint64(head) != id || order.Uint16(head[8:]) != freelistPage || pages > r.limit-id {
		return nil, 0, false, nil
	}
	count, start := uint64(order.Uint16(head[10:])), int64(pageHeader)
	if count == 0xFFFF { // too many for the header
		count, start = order.Uint64(head[pageHeader:]), start+8
	}
	if count > uint64(int64(pages)*r.meta.pageSize-start)/8 {
		return nil, 0, false, nil
	}
	b := make([]byte, count*8)
	if _, err := r.f.ReadAt(b, at+start); err != nil {
		return nil, 0, false, errors.Wrapf(err, "reading page %d", id)
	}
	for last := uint64(1); len(b) > 0; b = b[8:] {
		free := order.Uint64(b)
		if free <= last || free >= r.meta.pages {
			return nil, 0, false, nil
		}
		ids, last = append(ids, free), free
	}
	return ids, pages, true, nil
}
