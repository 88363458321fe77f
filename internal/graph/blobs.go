package graph

import (
	"slices"
	"strings"
)

// This file finds records by the blobs they are made of.

// LazyBlob is a record known by its blob.
type LazyBlob struct{ ID, SnapshotID, Digest string }

// LayerID says what a layer's content is: its blob, the blob uncompressed, and the identity by which its
// chain ID was made.
type LayerID struct {
	Digest, DiffID, Identity string
	// What else is said of the blob. Size is 0 or less if unknown, as MediaType is if empty; Common says that it is one of
	// an ordinary layer.
	MediaType string
	Size      int64
	Common    bool
}

// Candidate is a record that was found by its content.
type Candidate struct {
	Record *Record
	// ID is the record's immutable name, by which Clone takes a ref.
	ID, SnapshotID string
	Blob           *Blob
}

// legacyLocked tells whether the record's snapshot was made by a release that did not verify what it
// extracted (spec REC-10).
func (r *Record) legacyLocked() bool {
	if r.kind != Layer && r.kind != BaseLayer || r.imm == nil {
		return false
	}
	b := r.imm.Blob
	return b != nil && b.Digest != "" && b.ChainID != "" && b.ChainID == r.imm.SnapshotID
}

// listBlobLocked makes a record findable by its content.
func (g *Graph) listBlobLocked(r *Record) {
	if r.imm == nil || r.imm.Blob == nil {
		return
	}
	b := r.imm.Blob
	if b.Only && b.Digest != "" {
		g.lazyBlobs++
	}
	list(g.chains, b.ChainID, r)
	list(g.blobChains, b.BlobChainID, r)
}

func (g *Graph) unlistBlobLocked(r *Record) {
	if r.imm == nil || r.imm.Blob == nil {
		return
	}
	b := r.imm.Blob
	if b.Only && b.Digest != "" {
		g.lazyBlobs--
	}
	unlist(g.chains, b.ChainID, r)
	unlist(g.blobChains, b.BlobChainID, r)
}

func byName(a, b *Record) int { return strings.Compare(a.imm.ID, b.imm.ID) }

func list(index map[string][]*Record, key string, r *Record) {
	if key == "" {
		return
	}
	at, _ := slices.BinarySearchFunc(index[key], r, byName)
	index[key] = slices.Insert(index[key], at, r)
}

func unlist(index map[string][]*Record, key string, r *Record) {
	at, found := slices.BinarySearchFunc(index[key], r, byName)
	if !found {
		return
	}
	if len(index[key]) == 1 {
		delete(index, key)
		return
	}
	index[key] = slices.Delete(index[key], at, at+1)
}

// LazyBlobs returns r and those of its ancestors that have a blob and no extracted snapshot, each
// once (spec MGR-8). It is free for a record that was found to have none before.
func (g *Graph) LazyBlobs(r *Record) []LazyBlob {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lazyBlobs == 0 || r.unlazyAt == g.lazyGen {
		return nil
	}
	var out []LazyBlob
	g.stamp++
	r.mark = g.stamp
	stack := []*Record{r} // deep chains stay off the goroutine's own
	for len(stack) > 0 {
		a := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if a.unlazyAt == g.lazyGen {
			continue
		}
		if a.imm != nil && a.imm.Blob != nil && a.imm.Blob.Only && a.imm.Blob.Digest != "" {
			out = append(out, LazyBlob{ID: a.imm.ID, SnapshotID: a.imm.SnapshotID, Digest: a.imm.Blob.Digest})
		}
		for _, p := range a.parents {
			if p != nil && p.mark != g.stamp {
				p.mark = g.stamp
				stack = append(stack, p)
			}
		}
	}
	if len(out) == 0 {
		r.unlazyAt = g.lazyGen
	}
	return out
}

// Address is what layers on top of a record are addressed by (spec MGR-21): Chain and BlobChain, and Layers, bottom first,
// folded onto them. If there is nothing below Layers both are empty.
type Address struct {
	Chain, BlobChain string
	Layers           []LayerID
}

// Address returns the address of r. ok is false if it has none, or if it cannot be trusted. What is stored of r
// counts once ConfirmAddress said that it is right; until then it has to be made of its layers.
func (g *Graph) Address(r *Record) (a Address, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.tainted || !r.addressedLocked() {
		return Address{}, false
	}
	p := r
	for ; p.kind == Layer && !p.confirmed; p = p.parents[0] {
		a.Layers = append(a.Layers, layerIDLocked(p))
	}
	slices.Reverse(a.Layers)
	if p.confirmed {
		a.Chain, a.BlobChain = p.imm.Blob.ChainID, p.imm.Blob.BlobChainID
	} else {
		var below []LayerID
		for _, l := range Layers(p) {
			below = append(below, layerIDLocked(l))
		}
		a.Layers = append(below, a.Layers...)
	}
	for _, l := range a.Layers {
		if l.Identity == "" || l.DiffID == "" {
			return Address{}, false
		}
	}
	return a, true
}

func (r *Record) addressedLocked() bool {
	return r.imm != nil && r.imm.Blob != nil && r.imm.Blob.ChainID != "" && r.imm.Blob.BlobChainID != ""
}

// ConfirmAddress tells that the address of r was found to be chain and blobChain, and remembers it if that is
// what is stored of it.
func (g *Graph) ConfirmAddress(r *Record, chain, blobChain string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.confirmed = r.addressedLocked() && r.imm.Blob.ChainID == chain && r.imm.Blob.BlobChainID == blobChain
}

// Reusable returns the records that consist of the layers of parent, which may be nil, and one more with the
// given blob, in the order of their names (spec MGR-23). Equal chain IDs alone do not prove that, so the
// layers are compared one by one (spec MGR-24).
func (g *Graph) Reusable(chain, blobChain string, parent *Record, top LayerID) []Candidate {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Candidate
	for _, r := range g.blobChains[blobChain] {
		if !r.tainted && r.imm.Blob.ChainID == chain && sameLayersLocked(r, parent, top, true) {
			out = append(out, r.candidateLocked())
		}
	}
	return out
}

// Linkable returns the records whose tree is that of parent with one more layer of the given identity,
// whatever its compression (spec MGR-29), in the order of their names.
func (g *Graph) Linkable(chain string, parent *Record, top LayerID) []Candidate {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Candidate
	for _, r := range g.chains[chain] {
		if !r.tainted && sameLayersLocked(r, parent, top, false) {
			out = append(out, r.candidateLocked())
		}
	}
	return out
}

// Equivalents returns the records with the same layers as r in whatever compression, but not r itself.
func (g *Graph) Equivalents(r *Record) []Candidate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.tainted || r.imm == nil || r.imm.Blob == nil || r.kind != Layer && r.kind != BaseLayer {
		return nil
	}
	var parent *Record
	if r.kind == Layer {
		parent = r.parents[0]
	}
	var out []Candidate
	for _, other := range g.chains[r.imm.Blob.ChainID] {
		if other != r && !other.tainted && sameLayersLocked(other, parent, r.imm.Blob.layerID(), false) {
			out = append(out, other.candidateLocked())
		}
	}
	return out
}

func (r *Record) candidateLocked() Candidate {
	return Candidate{Record: r, ID: r.imm.ID, SnapshotID: r.imm.SnapshotID, Blob: r.imm.Blob}
}

func (b *Blob) layerID() LayerID {
	if b == nil {
		return LayerID{}
	}
	return LayerID{
		Digest: b.Digest, DiffID: b.DiffID, Identity: b.LayerIdentity,
		MediaType: b.MediaType, Size: b.Size, Common: b.Common,
	}
}

// sameLayersLocked tells whether the layers of r are those of parent and top on them. Blob digests count
// only if blobs is set. What nearly always matches, a record on the very same parent, is
// found out without a walk.
func sameLayersLocked(r, parent *Record, top LayerID, blobs bool) bool {
	if r.kind == Layer && r.parents[0] == parent || r.kind == BaseLayer && parent == nil {
		return sameLayer(r.imm.Blob.layerID(), top, blobs)
	}
	have := Layers(r)
	var want []*Record
	if parent != nil {
		want = Layers(parent)
	}
	if len(have) != len(want)+1 || !sameLayer(layerIDLocked(have[len(want)]), top, blobs) {
		return false
	}
	for i := len(want) - 1; i >= 0; i-- {
		if have[i] != want[i] && !sameLayer(layerIDLocked(have[i]), layerIDLocked(want[i]), blobs) {
			return false
		}
	}
	return true
}

func layerIDLocked(r *Record) LayerID {
	if r.imm == nil {
		return LayerID{}
	}
	return r.imm.Blob.layerID()
}

func sameLayer(a, b LayerID, blobs bool) bool {
	if a.Identity == "" || a.Identity != b.Identity || a.DiffID != b.DiffID {
		return false // what has no identity is like nothing else
	}
	return !blobs || a.Digest == b.Digest && a.agrees(&b)
}

// agrees tells whether what is said of one blob can be true of both. What nobody verifies, such as a wrong size, makes a
// layer that cannot be pulled or unpacked: whoever says it must not spoil the layer for the others (fault 41).
func (l *LayerID) agrees(with *LayerID) bool {
	if l.Size > 0 && with.Size > 0 && l.Size != with.Size {
		return false
	}
	return l.MediaType == with.MediaType || l.Common && with.Common || l.MediaType == "" || with.MediaType == ""
}

// LayerID returns what is known of the layer of r, the zero value if nothing is.
func (g *Graph) LayerID(r *Record) LayerID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return layerIDLocked(r)
}

// Tainted tells whether r, or a record that it lies on, is legacy, so that nothing may be addressed through it (spec REC-10).
func (g *Graph) Tainted(r *Record) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.tainted
}

// HasAddress tells whether chain IDs are stored of r, right or not; see Address.
func (g *Graph) HasAddress(r *Record) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.addressedLocked()
}

// SetAddress notes the chain IDs of r, which were made of all its layers and have been stored. What is known of its blob stays.
func (g *Graph) SetAddress(r *Record, chain, blobChain string) {
	g.changeBlob(r, func(b *Blob) { b.ChainID, b.BlobChainID = chain, blobChain })
	g.ConfirmAddress(r, chain, blobChain)
}

// SetExtracted notes that r has a snapshot besides its blob, which has been stored. What else is known of the blob stays; the size is
// unknown from now on.
func (g *Graph) SetExtracted(r *Record) {
	g.changeBlob(r, func(b *Blob) { b.Only = false })
	g.InvalidateSize(r)
}

// SetBlob notes the blob that was made of r and has been stored. Its chain IDs, and whether it was extracted, stay as they are.
func (g *Graph) SetBlob(r *Record, made *Blob) {
	g.changeBlob(r, func(b *Blob) {
		chain, blobChain, only := b.ChainID, b.BlobChainID, b.Only
		*b = *made
		b.ChainID, b.BlobChainID, b.Only = chain, blobChain, only
	})
	g.InvalidateSize(r)
}

// changeBlob replaces what is known of a record's blob by a changed copy.
func (g *Graph) changeBlob(r *Record, change func(*Blob)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.imm == nil {
		return
	}
	b := Blob{Size: -1}
	if r.imm.Blob != nil {
		b = *r.imm.Blob
	}
	wasLazy := b.Only
	change(&b)
	if b.Only && !wasLazy {
		g.lazyGen++
	}
	g.unlistBlobLocked(r)
	r.imm.Blob, r.confirmed = &b, false
	g.listBlobLocked(r)
	r.touched++
}
