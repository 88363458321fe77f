package cache_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/layercache/cache/usage"
)

// This file is the cache as the specification has it, in a few plain structs: no disk, no locks, no IDs. It
// knows nothing of internal/graph, so that a mistake there is not repeated here.

// half is one name of a layer with what is stored under it. layer is nil once the name is gone.
type half struct {
	name     string // "m0" or "i0", by order of birth, for scripts and messages
	layer    *layer
	desc     string
	kind     usage.RecordType
	retain   bool
	created  time.Time
	values   map[string]value
	count    int
	lastUsed int64 // Unix nanoseconds, 0 for never
	fromBlob bool
}

// value is what SetString stores.
type value struct{ text, index string }

// layer is a record: being written (mut alone), committed (both halves) or finalized (imm alone).
type layer struct {
	mut, imm *half
	parent   *layer
	files    map[string]string
	consumed bool // the mutable handle that Commit consumed is still registered (spec REF-16)
	owes     bool // the mutable half is to be bumped on its own retention path (spec REF-4)
	viewed   bool // there is a view lease (spec MNT-2, REF-6)

	kind   string // "merge", "diff", or "" for a layer
	inputs []*layer
	tree   *derivedTree

	blob   string // in blobPool, "" for a layer that was built
	only   bool   // it was never extracted
	linked bool   // there is a lease on variants
	listed bool   // its files are
}

// handle is a ref. It stays in the model when it is released, since callers keep such, too.
type handle struct {
	name     string
	half     *half
	layer    *layer // also when the layer is gone
	triggers bool   // spec REF-2
	released bool
	handled  bool // it has handlers for all blobs
}

// answer is what a call is to say.
type answer string

const (
	fine     answer = "no error"
	notFound answer = "not found"
	locked   answer = "locked"
	invalid  answer = "invalid"
	// missing is NeedsRemoteProviderError, precondition any other failed precondition.
	missing      answer = "missing handlers"
	precondition answer = "failed precondition"
)

// uses are the use counts at some time; a crash goes back to them.
type uses struct {
	at   time.Time
	seen map[*half]use
}

type use struct {
	count int
	last  int64
}

// loss is how much of the use counts a crash may cost (package comment, "Crash contract").
const loss = 5 * time.Second

type model struct {
	now time.Time
	// useAfterRelease is the option of that name.
	useAfterRelease bool

	layers  []*layer
	halves  []*half   // every one there ever was
	handles []*handle // of this opening
	history []uses    // which a crash may go back to, oldest first
	births  int
	// local are the blobs in the content store, snaps the keys of the snapshots of layers from blobs.
	local, snaps map[string]bool
}

func newModel(now time.Time) *model {
	m := &model{now: now, local: map[string]bool{}, snaps: map[string]bool{}}
	m.flushed()
	return m
}

func (m *model) newHalf(prefix string, l *layer) *half {
	h := &half{name: fmt.Sprint(prefix, m.births), layer: l, created: m.now, values: map[string]value{}}
	m.births++
	m.halves = append(m.halves, h)
	return h
}

func (m *model) newHandle(h *half, triggers bool) *handle {
	r := &handle{name: fmt.Sprintf("%s#%d", h.name, m.births), half: h, layer: h.layer, triggers: triggers}
	m.births++
	m.handles = append(m.handles, r)
	return r
}

// live counts the live handles of a layer, and those among them whose end counts as a use.
func (m *model) live(l *layer) (all, triggering int) {
	for _, r := range m.handles {
		if r.layer == l && !r.released {
			all++
			if r.triggers {
				triggering++
			}
		}
	}
	return all, triggering
}

// locked tells whether the mutable half has a live handle, a consumed one included (spec MGR-10, REF-16).
func (m *model) locked(l *layer) bool {
	return l.consumed || slices.ContainsFunc(m.handles, func(r *handle) bool { return r.half == l.mut && !r.released })
}

// create is New (spec MGR-1, MGR-2). A released parent will do while its record is alive (spec MGR-6).
func (m *model) create(parent *handle) (*handle, answer) {
	l := &layer{files: map[string]string{}}
	if parent != nil {
		if parent.half.layer == nil {
			return nil, notFound
		}
		m.finalizeLayer(parent.layer)
		m.extract(parent.layer)
		l.parent, l.files = parent.layer, maps.Clone(parent.layer.files)
	}
	l.mut = m.newHalf("m", l)
	m.layers = append(m.layers, l)
	h := m.newHandle(l.mut, true) // spec REF-2
	h.handled = parent != nil && parent.handled
	return h, fine
}

// commit is Commit (spec REF-15 to REF-17). Only what 1.3 lists is copied.
func (m *model) commit(r *handle) (*handle, answer) {
	if r.released {
		return nil, invalid
	}
	r.released = true
	imm := m.seal(r.layer, true)
	imm.handled = r.handled
	return imm, fine
}

func (m *model) seal(l *layer, triggers bool) *handle {
	l.imm = m.newHalf("i", l)
	l.imm.desc = l.mut.desc
	l.consumed, l.owes = true, triggers
	return m.newHandle(l.imm, triggers)
}

// get is Get (spec MGR-7, MGR-9 to MGR-11).
func (m *model) get(h *half, triggers, handled bool) (r *handle, _ answer) {
	l := h.layer
	switch {
	case l == nil:
		return nil, notFound
	case h != l.imm && m.locked(l):
		return nil, locked
	case !handled && m.unreachable(l):
		return nil, missing
	case l.imm != nil:
		r = m.newHandle(l.imm, triggers)
	default:
		r = m.seal(l, triggers)
	}
	r.handled = handled
	return r, fine
}

// getMutable is GetMutable (spec MGR-13, MGR-14).
func (m *model) getMutable(h *half) (*handle, answer) {
	l := h.layer
	if l == nil {
		return nil, notFound
	}
	if h == l.imm {
		return nil, invalid
	}
	if all, _ := m.live(l); all > 0 {
		return nil, locked
	}
	if m.unreachable(l) {
		return nil, missing
	}
	if l.imm != nil {
		l.imm.layer, l.imm = nil, nil
	}
	return m.newHandle(h, true), fine
}

// clone is Clone (spec REF-1): of a record that is gone it is a released handle.
func (m *model) clone(r *handle) *handle {
	c := m.newHandle(r.half, false)
	c.layer, c.released, c.handled = r.layer, r.half.layer == nil, r.handled
	return c
}

// gone tells whether a handle is of no use. With useAfterRelease an immutable one that was released does what it did as long as its record is there.
func (m *model) gone(h *handle) bool {
	return h.released && (!m.useAfterRelease || h.mutable() || h.half.layer == nil)
}

// finalize is Finalize (spec REF-10, REF-11).
func (m *model) finalize(r *handle) answer {
	if m.gone(r) {
		return invalid
	}
	m.finalizeLayer(r.layer)
	return fine
}

func (m *model) finalizeLayer(l *layer) {
	if l.mut == nil {
		return
	}
	l.mut.layer, l.mut = nil, nil
	l.consumed, l.owes = false, false
}

// mount is Mount (spec MNT-2, MNT-5).
func (m *model) mount(r *handle, readonly bool) answer {
	if m.gone(r) {
		return invalid
	}
	if r.half == r.layer.imm {
		if !readonly {
			m.finalizeLayer(r.layer)
		}
		m.extract(r.layer)
		all, _ := m.live(r.layer) // of released handles no view stays
		r.layer.viewed = all > 0 && (r.layer.viewed || r.layer.mut == nil)
	}
	return fine
}

// release is Release (spec REF-3 to REF-8).
func (m *model) release(r *handle) {
	if r.released {
		return
	}
	r.released = true
	l := r.layer
	if r.half == l.mut {
		m.retire(l, r.triggers)
		return
	}
	all, triggering := m.live(l)
	if r.triggers && triggering == 0 {
		m.bump(l.imm)
		l.owes = l.mut != nil
	}
	if all == 0 {
		l.viewed = false
		if l.mut != nil {
			m.retire(l, l.owes)
		}
	}
}

// retire is what becomes of a layer that was not finalized when its last handle goes (spec REF-8).
func (m *model) retire(l *layer, triggered bool) {
	if !l.mut.retain && (l.imm == nil || !l.imm.retain) {
		m.remove(l)
		return
	}
	if triggered {
		m.bump(l.mut)
	}
	l.consumed, l.owes = false, false
}

// letGo is what becomes of a parent that was linked for a moment: one that lost its policy while it was idle goes.
func (m *model) letGo(parent *layer) {
	held, _ := m.live(parent)
	child := slices.ContainsFunc(m.layers, func(c *layer) bool { return c.parent == parent })
	if held == 0 && !child && parent.mut != nil {
		m.retire(parent, parent.owes)
	}
}

func (m *model) bump(h *half) {
	h.count++
	h.lastUsed = m.now.UnixNano()
	m.history = append(m.history, uses{m.now, m.uses()})
}

// remove deletes a layer. Its parent's use does not change (spec PRN-19).
func (m *model) remove(l *layer) {
	for _, h := range []*half{l.mut, l.imm} {
		if h != nil {
			h.layer = nil
		}
	}
	m.layers = slices.DeleteFunc(m.layers, func(o *layer) bool { return o == l })
}

func (m *model) uses() map[*half]use {
	out := map[*half]use{}
	for _, h := range m.halves {
		out[h] = use{h.count, h.lastUsed}
	}
	return out
}

// flushed notes that every use is on disk.
func (m *model) flushed() { m.history = []uses{{m.now, m.uses()}} }

// restart is what the next process finds: no handles, no view leases, and nothing that nobody asked to
// retain (spec INIT-6, INIT-12).
func (m *model) restart() {
	m.handles = nil
	for _, l := range slices.Clone(m.layers) {
		l.consumed, l.owes, l.viewed = false, false, false
		if l.mut != nil && !l.mut.retain && (l.imm == nil || !l.imm.retain) {
			m.remove(l)
		}
	}
}

// lose goes back to use counts that a crash may leave: those of any one time that is not
// longer ago than loss. It reports false if none fits.
func (m *model) lose(fits func(seen map[*half]use) bool) bool {
	first := 0
	for i, u := range m.history {
		if !u.at.After(m.now.Add(-loss)) {
			first = i
		}
	}
	for _, u := range m.history[first:] {
		if fits(u.seen) {
			for _, h := range m.halves {
				h.count, h.lastUsed = u.seen[h].count, u.seen[h].last
			}
			m.flushed()
			return true
		}
	}
	return false
}

// set stores a value; a half that is gone is not found (spec MV-4).
func (m *model) set(h *half, change func(h *half)) answer {
	if h.layer == nil {
		return notFound
	}
	change(h)
	return fine
}

// search is Search: one hit per half and index (spec META-8, MV-2).
func (m *model) search(index string, prefix bool) []*half {
	var found []*half
	for _, h := range m.halves {
		for _, v := range h.values {
			if h.layer != nil && v.index != "" && (v.index == index || prefix && strings.HasPrefix(v.index, index)) {
				found = append(found, h)
			}
		}
	}
	return found
}

// shown is the half that stands for a layer (spec DU-1).
func (m *model) shown(l *layer) *half {
	if all, _ := m.live(l); l.mut == nil || l.imm != nil && all > 0 {
		return l.imm
	}
	return l.mut
}

// inUse tells whether a live handle leads to the layer (spec DU-2).
func (m *model) inUse(l *layer) bool {
	all, _ := m.live(l)
	return all > 0 || slices.ContainsFunc(m.layers, func(c *layer) bool { return slices.Contains(c.below(), l) && m.inUse(c) })
}

// info describes a layer as DiskUsage does (spec DU-1 to DU-3), with names in place of IDs and no size.
func (m *model) info(l *layer, name func(*half) string) usage.Info {
	h := m.shown(l)
	u := usage.Info{
		ID: name(h), Mutable: h == l.mut, InUse: m.inUse(l), CreatedAt: h.created.UTC(),
		UsageCount: h.count, Description: h.desc, RecordType: cmp.Or(h.kind, usage.TypeRegular),
	}
	if h.lastUsed != 0 {
		last := time.Unix(0, h.lastUsed).UTC()
		u.LastUsedAt = &last
	}
	for _, p := range l.below() {
		u.Parents = append(u.Parents, name(p.imm))
	}
	return u
}
