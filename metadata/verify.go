package metadata

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io"

	"github.com/pkg/errors"
)

// The parts of bbolt's file format that verify looks at, in the byte order of the machine.
const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64
	pageHeader  = 16 // id uint64, flags, count uint16, overflow uint32
	elemHeader  = 16 // branch: pos, ksize uint32, page uint64; leaf: flags, pos, ksize, vsize uint32
	bucketHead  = 16 // root page, sequence uint64

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketElem = 0x01
	noFreelist = ^uint64(0)

	maxTreeDepth = 100 // of all nested buckets together; real ones stay below 20
)

var order = binary.NativeEndian

// boltMeta is the root of one state of the file.
type boltMeta struct {
	version                    uint32
	pageSize                   int64
	root, freelist, pages, txn uint64
}

// verifier walks the pages of a file with ReadAt. bbolt reads them through a mapping, where a
// page that is damaged or lies beyond the end of the file ends the process.
type verifier struct {
	f    io.ReaderAt
	size int64
	meta boltMeta
	used []uint64 // bit set of the pages met
	bufs [][]byte // one page for each level of the walk
}

// verify checks everything about a database file that bbolt takes for granted: that each page
// is what its parent says, lies in the file and is used once, that its elements lie in it one
// after the other, that keys are in order, and that a page begins with the key it has in its
// parent, by which bbolt finds it there when it changes. It checks as well that the values of
// records are envelopes, without which nobody reads them. It tells whether the file lacks a
// free list.
func verify(f io.ReaderAt, size int64) (lacksFreelist bool, err error) {
	v := &verifier{f: f, size: size}
	if v.meta, err = readMeta(f, size); err != nil {
		return false, err
	}
	v.used = make([]uint64, v.limit()/64+1)
	if err := v.tree(v.meta.root, within{in: top}, 0); err != nil {
		return false, err
	}
	if v.meta.freelist == noFreelist {
		return true, nil
	}
	return false, v.freelist()
}

// readMeta returns the newest root of the file.
func readMeta(f io.ReaderAt, size int64) (boltMeta, error) {
	buf := make([]byte, pageHeader+metaSize)
	read := func(at int64) (m boltMeta, magic, ok bool) {
		if n, err := f.ReadAt(buf, at); n < len(buf) || err != nil && !errors.Is(err, io.EOF) {
			return m, false, false
		}
		return parseMeta(buf[pageHeader:])
	}
	first, magic, ok := read(0)
	second := boltMeta{}
	if ok {
		second, _, _ = read(first.pageSize)
	} else {
		// The second root is one page into the file, whose size is in the first.
		for at := int64(1 << 10); at <= 1<<24 && at < size; at <<= 1 {
			m, isMeta, valid := read(at)
			magic = magic || isMeta
			if valid {
				second = m
				break
			}
		}
	}
	m := first
	if second.txn > m.txn || !ok {
		m = second
	}
	switch {
	case m.pageSize == 0 && (magic || looksLikeBolt(f, size)):
		return m, errors.Wrap(ErrCorrupt, "neither of the two roots is valid")
	case m.pageSize == 0:
		return m, errors.WithStack(ErrNotDatabase)
	case m.version != metaVersion:
		return m, errors.Wrapf(ErrNotDatabase, "version %d of the file format is unknown", m.version)
	case size < 2*m.pageSize:
		return m, errors.Wrapf(ErrCorrupt, "the file is cut off at %d bytes", size)
	}
	return m, nil
}

// parseMeta reads a root, which is valid if ok. magic tells whether it was one.
func parseMeta(b []byte) (m boltMeta, magic, ok bool) {
	magic = order.Uint32(b) == metaMagic
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	size := order.Uint32(b[8:])
	if !magic || order.Uint64(b[metaSize-8:]) != sum.Sum64() || size < 1<<10 || size > 1<<24 || size&(size-1) != 0 {
		return boltMeta{}, magic, false
	}
	return boltMeta{
		version:  order.Uint32(b[4:]),
		pageSize: int64(size),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		pages:    order.Uint64(b[40:]),
		txn:      order.Uint64(b[48:]),
	}, true, true
}

// looksLikeBolt tells whether a file without roots has pages of a database.
func looksLikeBolt(f io.ReaderAt, size int64) bool {
	_, found := guessPageSize(f, size)
	return found > 1
}

// guessPageSize returns the page size with which most of the first pages of a file say that they
// are the pages they are, and how many do.
func guessPageSize(f io.ReaderAt, size int64) (pageSize int64, found int) {
	const enough = 1 << 12
	var b [pageHeader]byte
	for try := int64(1 << 10); try <= 1<<16; try <<= 1 {
		n := 0
		for id := int64(2); id < enough && (id+1)*try <= size; id++ {
			if _, err := f.ReadAt(b[:], id*try); err != nil {
				break
			}
			switch order.Uint16(b[8:]) {
			case branchPage, leafPage, freelistPage:
				if order.Uint64(b[:]) == uint64(id) {
					n++
				}
			}
		}
		if n > found {
			pageSize, found = try, n
		}
	}
	return pageSize, found
}

// limit returns the number of pages that there can be something in.
func (v *verifier) limit() uint64 {
	return min(v.meta.pages, uint64(v.size/v.meta.pageSize))
}

func damage(page uint64, format string, args ...any) error {
	return errors.WithMessagef(errors.Wrapf(ErrCorrupt, format, args...), "page %d", page)
}

// use marks pages as met, once each.
func (v *verifier) use(first, n uint64) error {
	if first < 2 || n > v.limit() || first > v.limit()-n {
		return damage(first, "it lies outside the file")
	}
	for id := first; id < first+n; id++ {
		if v.used[id/64]&(1<<(id%64)) != 0 {
			return damage(id, "it is used twice")
		}
		v.used[id/64] |= 1 << (id % 64)
	}
	return nil
}

// load reads a page and marks it and those it extends over. depth selects the buffer, so the
// pages above stay valid.
func (v *verifier) load(id uint64, depth int) (*pageData, error) {
	if depth >= maxTreeDepth {
		return nil, damage(id, "it is nested too deeply")
	}
	if id < 2 || id >= v.limit() {
		return nil, damage(id, "it lies outside the file")
	}
	for len(v.bufs) <= depth {
		v.bufs = append(v.bufs, make([]byte, v.meta.pageSize))
	}
	p := &pageData{f: v.f, at: int64(id) * v.meta.pageSize, head: v.bufs[depth]}
	if _, err := v.f.ReadAt(p.head, p.at); err != nil {
		return nil, errors.Wrapf(err, "reading page %d", id)
	}
	if got := order.Uint64(p.head); got != id {
		return nil, damage(id, "it says it is page %d", got)
	}
	overflow := uint64(order.Uint32(p.head[12:]))
	p.len = int64(overflow+1) * v.meta.pageSize
	return p, v.use(id, overflow+1)
}

// within is where in the database a page is: its keys begin with low and are below high, where
// these are known.
type within struct {
	low, high []byte
	in        place
}

// place is the bucket that a page belongs to.
type place uint8

const (
	elsewhere place = iota
	top             // the root, which holds the top-level buckets
	records         // mainBucket
	oneRecord
)

// child returns the place of a bucket.
func (p place) child(name []byte) place {
	switch {
	case p == top && bytes.Equal(name, mainBucket):
		return records
	case p == records:
		return oneRecord
	}
	return elsewhere
}

// tree verifies the pages below id.
func (v *verifier) tree(id uint64, w within, depth int) error {
	p, err := v.load(id, depth)
	if err != nil {
		return err
	}
	switch flags := order.Uint16(p.head[8:]); flags {
	case leafPage:
		err = v.leaf(p, w, depth)
	case branchPage:
		err = v.branch(p, w, depth)
	default:
		err = errors.Wrapf(ErrCorrupt, "type %#x has no place in a tree", flags)
	}
	return errors.WithMessagef(err, "page %d", id)
}

// branch verifies the elements of a branch page and the pages below them.
func (v *verifier) branch(p *pageData, w within, depth int) error {
	count := int64(order.Uint16(p.head[10:]))
	if count == 0 {
		return errors.Wrap(ErrCorrupt, "it leads nowhere")
	}
	end := pageHeader + count*elemHeader
	elem := func(i int64) (key []byte, child uint64, err error) {
		at := pageHeader + i*elemHeader
		h, err := p.bytes(at, elemHeader)
		if err != nil {
			return nil, 0, err
		}
		at += int64(order.Uint32(h))
		if at != end {
			return nil, 0, errors.Wrapf(ErrCorrupt, "key %d is not where it belongs", i)
		}
		key, err = p.bytes(at, int64(order.Uint32(h[4:])))
		end += int64(len(key))
		return key, order.Uint64(h[8:]), err
	}
	key, child, err := elem(0)
	if err != nil {
		return err
	}
	if len(key) == 0 || w.low != nil && !bytes.Equal(key, w.low) {
		return errors.Wrap(ErrCorrupt, "its first key is not the one in its parent")
	}
	for i := int64(0); i < count; i++ {
		next, nextChild := w.high, uint64(0)
		if i+1 < count {
			if next, nextChild, err = elem(i + 1); err != nil {
				return err
			}
		}
		if next != nil && bytes.Compare(key, next) >= 0 {
			return errors.Wrap(ErrCorrupt, "its keys are out of order")
		}
		if err := v.tree(child, within{key, next, w.in}, depth+1); err != nil {
			return err
		}
		key, child = next, nextChild
	}
	return nil
}

// leaf verifies the elements of a leaf page and the buckets among them.
func (v *verifier) leaf(p *pageData, w within, depth int) error {
	count := int64(order.Uint16(p.head[10:]))
	if count == 0 && w.low != nil {
		return errors.Wrap(ErrCorrupt, "it is empty")
	}
	last, end := w.low, pageHeader+count*elemHeader
	for i := int64(0); i < count; i++ {
		at := pageHeader + i*elemHeader
		h, err := p.bytes(at, elemHeader)
		if err != nil {
			return err
		}
		at += int64(order.Uint32(h[4:]))
		keyLen, valueLen := int64(order.Uint32(h[8:])), int64(order.Uint32(h[12:]))
		isBucket := order.Uint32(h)&bucketElem != 0
		if at != end || order.Uint32(h) > bucketElem {
			return errors.Wrapf(ErrCorrupt, "element %d is not where it belongs", i)
		}
		end += keyLen + valueLen
		key, err := p.bytes(at, keyLen)
		if err != nil {
			return err
		}
		switch after := bytes.Compare(last, key); {
		case keyLen == 0, i > 0 && after >= 0, i == 0 && w.low != nil && after != 0,
			w.high != nil && bytes.Compare(key, w.high) >= 0:
			return errors.Wrap(ErrCorrupt, "its keys are out of order")
		}
		last = key
		if end > p.len {
			return errors.Wrapf(ErrCorrupt, "value %d lies outside of it", i)
		}
		switch {
		case isBucket:
			err = v.bucket(p, at+keyLen, valueLen, w.in.child(key), depth)
		case w.in == oneRecord && valueLen > 0:
			err = v.value(p, at+keyLen, valueLen)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// value verifies a value of a record.
func (v *verifier) value(p *pageData, at, n int64) error {
	dt, err := p.bytes(at, n)
	if err == nil {
		_, err = decode(dt)
	}
	return err
}

// bucket verifies a nested bucket: a tree of its own, or a leaf page within the value.
func (v *verifier) bucket(p *pageData, at, n int64, in place, depth int) error {
	if n < bucketHead {
		return errors.Wrap(ErrCorrupt, "a bucket is cut off")
	}
	b, err := p.bytes(at, bucketHead)
	if err != nil {
		return err
	}
	if root := order.Uint64(b); root != 0 {
		return v.tree(root, within{in: in}, depth+1)
	}
	if b, err = p.bytes(at, n); err != nil {
		return err
	}
	inline := &pageData{head: b[bucketHead:], len: n - bucketHead}
	if depth+1 >= maxTreeDepth || inline.len < pageHeader || order.Uint16(inline.head[8:]) != leafPage {
		return errors.Wrap(ErrCorrupt, "a bucket has no valid page")
	}
	return v.leaf(inline, within{in: in}, depth+1)
}

// freelist verifies the list of free pages, none of which may be in use.
func (v *verifier) freelist() error {
	id := v.meta.freelist
	p, err := v.load(id, 0)
	if err != nil {
		return err
	}
	if order.Uint16(p.head[8:]) != freelistPage {
		return damage(id, "it is not the free list")
	}
	count, at := uint64(order.Uint16(p.head[10:])), int64(pageHeader)
	if count == 0xFFFF { // too many for the header
		b, err := p.bytes(at, 8)
		if err != nil {
			return err
		}
		count, at = order.Uint64(b), at+8
	}
	if count > uint64(p.len)/8 {
		return damage(id, "the free list is too long for it")
	}
	ids, err := p.bytes(at, int64(count)*8)
	if err != nil {
		return err
	}
	for ; len(ids) > 0; ids = ids[8:] {
		free := order.Uint64(ids)
		if free < 2 || free >= v.meta.pages {
			return damage(id, "it frees page %d, which does not exist", free)
		}
		if free < v.limit() {
			if err := v.use(free, 1); err != nil {
				return errors.WithMessage(err, "free list")
			}
		}
	}
	return nil
}

// pageData is a page and those it extends over.
type pageData struct {
	f    io.ReaderAt
	at   int64  // in the file
	head []byte // the first page of it, or all of it
	len  int64
}

// bytes returns a part of the page. Parts in the first page are not copied, others are read.
func (p *pageData) bytes(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > p.len || n > p.len-at {
		return nil, errors.Wrap(ErrCorrupt, "an element lies outside of it")
	}
	if at+n <= int64(len(p.head)) {
		return p.head[at : at+n], nil
	}
	b := make([]byte, n)
	_, err := p.f.ReadAt(b, p.at+at)
	return b, errors.WithStack(err)
}
