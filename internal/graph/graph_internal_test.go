package graph

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func active(t require.TestingT, g *Graph, id string, retain bool, parents ...*Record) *Record {
	kind := BaseLayer
	if len(parents) == 1 {
		kind = Layer
	}
	for _, p := range parents {
		require.True(t, g.Link(p, p.imm.ID))
	}
	r, ok := g.Insert(Spec{Kind: kind, Parents: parents, State: Active, Mut: &Meta{ID: id, SnapshotID: id, Size: -1, Retain: retain}, Writer: true, Triggers: true})
	require.True(t, ok)
	return r
}

// ready makes a finalized record on which the caller holds one ref that counts as a use.
func ready(t require.TestingT, g *Graph, id string, parents ...*Record) *Record {
	r := active(t, g, id+"-m", false, parents...)
	require.NoError(t, g.Seal(r, &Meta{ID: id, SnapshotID: id, Size: -1}, true))
	require.NoError(t, g.Finalize(r))
	return r
}

// condemns tells whether a record is chosen for deletion.
func condemns(g *Graph, v *View) bool { return len(g.Condemn([]*View{v})) == 1 }

func viewOf(t require.TestingT, g *Graph, r *Record) *View {
	for _, v := range g.View() {
		if v.Record == r {
			return &v
		}
	}
	require.Fail(t, "the record is not visible")
	return nil
}

func TestUseIsCountedAtTheLastTriggeringRef(t *testing.T) { // spec REF-2, REF-3
	g := New()
	r := ready(t, g, "r")
	require.True(t, g.DropRef(r, true, 5).UsesDue)
	require.Equal(t, []Use{{"r", 5, 1, false}}, g.TakeUses())

	for range 2 {
		_, id, lazy, v := g.Ref("r", true)
		require.Equal(t, OK, v)
		require.Equal(t, "r", id)
		require.False(t, lazy)
	}
	require.True(t, g.Clone(r, "r", false))
	require.False(t, g.DropRef(r, true, 6).UsesDue, "another triggering ref remains")
	o := g.DropRef(r, true, 7)
	require.True(t, o.UsesDue, "a ref that does not trigger must not hold the count back")
	require.False(t, o.Last)
	_, _, _, v := g.Ref("r", true)
	require.Equal(t, OK, v)
	require.False(t, g.DropRef(r, true, 8).UsesDue, "uses are listed already")
	require.Equal(t, []Use{{"r", 8, 3, false}}, g.TakeUses())
	require.Empty(t, g.TakeUses())
	require.True(t, g.DropRef(r, false, 9).Last)
	require.Empty(t, g.TakeUses())
}

func TestUndoneRefIsNoUse(t *testing.T) { // spec REF-3
	g := New()
	r := ready(t, g, "r")
	g.DropRef(r, true, 1)
	_, _, _, v := g.Ref("r", false)
	require.Equal(t, OK, v)
	require.True(t, g.UndoRef(r).Last)
	m, ok := g.Meta("r")
	require.True(t, ok)
	require.Equal(t, 1, m.UsageCount)
}

func TestPairGoesOrStaysByThePolicyOfEitherHalf(t *testing.T) { // spec REF-4, REF-7, REF-8
	for _, tc := range []struct{ mut, imm, stays bool }{{false, false, false}, {true, false, true}, {false, true, true}, {true, true, true}} {
		t.Run(fmt.Sprintf("mutable %v immutable %v", tc.mut, tc.imm), func(t *testing.T) {
			g := New()
			r := active(t, g, "m", tc.mut)
			require.NoError(t, g.Seal(r, &Meta{ID: "i", Retain: tc.imm}, true))
			_, v := g.Writer("m")
			require.Equal(t, Locked, v, "spec REF-16")
			o := g.DropRef(r, true, 9)
			require.Equal(t, !tc.stays, o.Remove)
			if !tc.stays {
				require.False(t, g.Has("m") || g.Has("i"))
				return
			}
			require.ElementsMatch(t, []Use{{"i", 9, 1, false}, {"m", 9, 1, true}}, g.TakeUses(), "both names were used, once each")
			_, v = g.Writer("m")
			require.Equal(t, NeedReopen, v)
			require.False(t, g.Has("i"), "less available before the disk knows")
			g.AbortReopen(r)
			require.True(t, g.Has("i"))
		})
	}
}

func TestSealedRecordWithAChildComingIsNotRemoved(t *testing.T) { // spec MGR-6, REF-8
	g := New()
	r := active(t, g, "m", false)
	require.NoError(t, g.Seal(r, &Meta{ID: "i"}, true))
	require.True(t, g.Link(r, r.imm.ID))
	require.False(t, g.DropRef(r, true, 1).Remove)
	require.True(t, g.Unlink(r, 1).Remove, "the child did not come, so the pair goes now")
}

func TestParentsAreLetGoOncePerLink(t *testing.T) { // quirk Q28, spec REF-9
	g := New()
	p := ready(t, g, "p")
	for range 2 {
		require.True(t, g.Link(p, p.imm.ID))
	}
	r, ok := g.Insert(Spec{Kind: Merge, Parents: []*Record{p, p}, State: Ready, Imm: &Meta{ID: "merge"}, Ref: true})
	require.True(t, ok)
	g.DropRef(p, true, 1)
	g.DropRef(r, false, 1)
	require.EqualValues(t, 2, p.links)
	view := viewOf(t, g, r)
	require.False(t, condemns(g, viewOf(t, g, p)), "it has children")
	_, _, _, v := g.Ref("merge", false)
	require.Equal(t, OK, v)
	g.DropRef(r, false, 2)
	require.False(t, condemns(g, view), "used since it was seen")
	view = viewOf(t, g, r)
	require.True(t, g.Patch("merge", FieldRetain, &Meta{Retain: true}))
	require.False(t, condemns(g, view), "changed since it was seen")
	require.True(t, condemns(g, viewOf(t, g, r)))
	_, err := g.Drop(r)
	require.NoError(t, err)
	require.Zero(t, p.links)
	_, err = g.Drop(r)
	require.Error(t, err, "a second drop must not let the parents go again")
	require.Zero(t, p.links)
}

func TestRestoreMakesVisibleAgain(t *testing.T) { // quirk Q71
	g := New()
	r := ready(t, g, "r")
	g.DropRef(r, true, 1)
	require.True(t, condemns(g, viewOf(t, g, r)))
	require.False(t, g.Has("r"))
	_, _, _, v := g.Ref("r", true)
	require.Equal(t, NotFound, v)
	require.NoError(t, g.Restore(r))
	_, _, _, v = g.Ref("r", true)
	require.Equal(t, OK, v)
}

func TestLayers(t *testing.T) { // spec WALK-1, WALK-2, REC-1
	base := &Record{kind: BaseLayer}
	top := &Record{kind: Layer, parents: []*Record{base}}
	other := &Record{kind: BaseLayer}
	upperOnly := &Record{kind: Diff, parents: []*Record{base, top}}
	fromScratch := &Record{kind: Diff, parents: []*Record{nil, base}}
	deletes := &Record{kind: Diff, parents: []*Record{base, nil}}
	unrelated := &Record{kind: Diff, parents: []*Record{other, top}}
	merge := &Record{kind: Merge, parents: []*Record{top, upperOnly, unrelated, top}}
	onMerge := &Record{kind: Layer, parents: []*Record{merge}}

	require.Equal(t, []*Record{base}, Layers(base))
	require.Equal(t, []*Record{base, top}, Layers(top))
	require.Equal(t, []*Record{top}, Layers(upperOnly))
	require.Equal(t, []*Record{base}, Layers(fromScratch))
	require.Equal(t, []*Record{deletes}, Layers(deletes))
	require.Equal(t, []*Record{unrelated}, Layers(unrelated))
	require.Equal(t, []*Record{base, top, top, unrelated, base, top, onMerge}, Layers(onMerge))
}

func TestLazyBlobsVisitEachAncestorOnce(t *testing.T) { // spec MGR-8
	g := New()
	lazy := func(id string, kind Kind, parents ...*Record) *Record {
		for _, p := range parents {
			require.True(t, g.Link(p, p.imm.ID))
		}
		r, ok := g.Insert(Spec{Kind: kind, Parents: parents, State: Lazy, Imm: &Meta{ID: id, Blob: &Blob{Digest: "d-" + id, Only: true}}, Ref: true})
		require.True(t, ok)
		return r
	}
	a := lazy("a", BaseLayer)
	b := lazy("b", Layer, a)
	m := lazy("m", Merge, a, b, b)
	require.Len(t, g.LazyBlobs(m), 3)

	g.SetExtracted(a)
	require.Len(t, g.LazyBlobs(m), 2)
	require.Equal(t, 2, g.lazyBlobs)
}

// What became known of a blob while its layer was being extracted stays: an export at the same time stores the chain IDs, an extraction knows
// the blob as it was when it began (spec CHAIN-1, MGR-30).
func TestExtractedKeepsWhatBecameKnown(t *testing.T) {
	g := New()
	blob := Blob{Digest: "d", DiffID: "u", LayerIdentity: "u", Size: 7, Only: true}
	r, ok := g.Insert(Spec{State: Lazy, Imm: &Meta{ID: "r", SnapshotID: "s", Size: 7, Blob: &blob}, Ref: true})
	require.True(t, ok)
	before := g.Status(r)
	g.SetAddress(r, "c", "bc")
	g.SetExtracted(r)

	after := g.Status(r)
	want := *before.Blob
	want.Only, want.ChainID, want.BlobChainID = false, "c", "bc"
	require.Equal(t, want, *after.Blob)
	require.True(t, before.Blob.Only, "what was handed out does not change")
	require.EqualValues(t, -1, after.Size)
	require.NotEqual(t, before.SizeGen, after.SizeGen, "a size measured meanwhile is of the blob alone")
	require.Len(t, g.Linkable("c", nil, LayerID{Identity: "u", DiffID: "u"}), 1)
	require.Empty(t, g.LazyBlobs(r))
}

// A record that was found to lie on nothing lazy is looked at again once something may have turned lazy (spec MGR-8).
func TestLazyAgain(t *testing.T) {
	g := New()
	insert := func(id string, only bool) *Record {
		r, ok := g.Insert(Spec{State: Ready, Imm: &Meta{ID: id, Blob: &Blob{Digest: "d-" + id, Only: only}}, Ref: true})
		require.True(t, ok)
		return r
	}
	insert("other", true) // else nobody would look at all
	r := insert("r", false)
	require.Empty(t, g.LazyBlobs(r))
	g.changeBlob(r, func(b *Blob) { b.Only = true })
	require.Len(t, g.LazyBlobs(r), 1)
}

func TestSizeOfAnOldGenerationIsNotKept(t *testing.T) { // quirk Q44, spec SIZE-4
	g := New()
	r := ready(t, g, "r")
	gen := g.Status(r).SizeGen
	g.InvalidateSize(r)
	_, ok := g.SetSize(r, gen, 7, nil)
	require.False(t, ok)
	_, ok = g.SetSize(r, g.Status(r).SizeGen, 8, nil)
	require.True(t, ok)
	require.EqualValues(t, 8, g.Status(r).Size)
}

// lives is a graph that random life cycles go through, with a second account of who holds what.
type lives struct {
	g       *Graph
	n       int
	refs    []held
	writers []*Record
}

type held struct {
	r        *Record
	triggers bool
}

func (l *lives) drop(t require.TestingT, o Outcome, r *Record) {
	if o.Remove {
		require.False(t, l.g.Has(r.shownLocked().ID))
		_, err := l.g.Drop(r)
		require.NoError(t, err)
	}
}

func (l *lives) make(t *rapid.T) {
	l.n++
	var parents []*Record
	if len(l.refs) > 0 && rapid.Bool().Draw(t, "child") {
		p := rapid.SampledFrom(l.refs).Draw(t, "parent").r
		if p.state == Sealed {
			require.NoError(t, l.g.Finalize(p))
		}
		parents = []*Record{p}
	}
	retain := rapid.Bool().Draw(t, "retain")
	l.writers = append(l.writers, active(t, l.g, fmt.Sprintf("m%d", l.n), retain, parents...))
}

func (l *lives) takeWriter(t *rapid.T) *Record {
	if len(l.writers) == 0 {
		t.Skip("no writer")
	}
	i := rapid.IntRange(0, len(l.writers)-1).Draw(t, "writer")
	r := l.writers[i]
	l.writers = append(l.writers[:i:i], l.writers[i+1:]...)
	return r
}

func (l *lives) commit(t *rapid.T) {
	r := l.takeWriter(t)
	l.n++
	require.NoError(t, l.g.Seal(r, &Meta{ID: fmt.Sprintf("i%d", l.n), Size: -1}, true))
	l.refs = append(l.refs, held{r, true})
}

func (l *lives) abandon(t *rapid.T) {
	r := l.takeWriter(t)
	l.drop(t, l.g.DropWriter(r, 1), r)
}

func (l *lives) clone(t *rapid.T) {
	if len(l.refs) == 0 {
		t.Skip("no ref")
	}
	h := rapid.SampledFrom(l.refs).Draw(t, "ref")
	require.True(t, l.g.Clone(h.r, h.r.imm.ID, false))
	l.refs = append(l.refs, held{h.r, false})
}

func (l *lives) release(t *rapid.T) {
	if len(l.refs) == 0 {
		t.Skip("no ref")
	}
	i := rapid.IntRange(0, len(l.refs)-1).Draw(t, "i")
	h := l.refs[i]
	l.refs = append(l.refs[:i:i], l.refs[i+1:]...)
	l.drop(t, l.g.DropRef(h.r, h.triggers, 1), h.r)
}

func (l *lives) check(t *rapid.T) {
	require.Equal(t, len(l.refs)+len(l.writers), l.g.Counts().Refs)
	count := map[*Record]int32{}
	links := map[*Record]int32{}
	for _, h := range l.refs {
		count[h.r]++
	}
	view := l.g.View()
	for _, v := range view {
		require.Equal(t, count[v.Record], v.Record.refs)
		for _, p := range v.Record.parents {
			links[p]++
		}
	}
	for _, v := range view {
		require.Equal(t, links[v.Record], v.Record.links)
		require.True(t, v.Record.state == Ready || v.Record.mut.Retain || v.Held || v.Links > 0, "nothing wants it")
	}
}

// Random life cycles keep the counts, which the second account confirms.
func TestCountsUnderRandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &lives{g: New()}
		t.Repeat(map[string]func(*rapid.T){
			"new": l.make, "commit": l.commit, "abandon": l.abandon, "clone": l.clone, "release": l.release, "": l.check,
		})
	})
}

// A record in a room of its own is like any other; the parents that it was made with are the caller's again.
func TestRecordInARoom(t *testing.T) {
	g := New()
	g.Expect(3)
	parents := make([]*Record, 0, 1)
	base := &Room{Meta: Meta{ID: "base", SnapshotID: "base", Size: -1}}
	a, ok := g.Insert(Spec{State: Ready, Imm: &base.Meta, Room: base})
	require.True(t, ok)
	require.Same(t, &base.record, a)
	require.Empty(t, a.Parents())
	b := active(t, g, "other", false)

	top := &Room{Meta: Meta{ID: "top", SnapshotID: "top", Size: -1}}
	require.True(t, g.Link(a, "base"))
	r, ok := g.Insert(Spec{Kind: Layer, Parents: append(parents, a), State: Ready, Imm: &top.Meta, Room: top})
	require.True(t, ok)
	_ = append(parents, b)
	require.Equal(t, []*Record{a}, r.Parents())
	require.Equal(t, int32(2), r.layers)

	_, taken := g.Insert(Spec{State: Ready, Imm: &top.Meta, Room: &Room{}})
	require.False(t, taken)
	g.Expect(100) // too late, and no harm
	require.Same(t, r, g.Lookup("top"))
	require.Same(t, a, g.Lookup("base"))
	require.Same(t, b, g.Lookup("other"))
	require.Equal(t, 3, g.Counts().Records)
}
