package graph

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Spec REC-6: a record is found by its names until it is gone, condemned or not; what is inspected is a copy.
func TestInspect(t *testing.T) {
	g := New()
	parent, ok := g.Insert(Spec{State: Ready, Imm: &Meta{ID: "p", SnapshotID: "ps"}})
	require.True(t, ok)
	require.True(t, g.Link(parent, "p"))
	r, ok := g.Insert(Spec{
		State: Sealed, Kind: Layer, Parents: []*Record{parent},
		Mut: &Meta{ID: "m", SnapshotID: "m"}, Imm: &Meta{ID: "i", SnapshotID: "i", Retain: true}, StrayLease: true,
	})
	require.True(t, ok)

	in := g.Inspect(r)
	require.True(t, in.Alive())
	require.True(t, in.StrayLease)
	require.Equal(t, []string{"p"}, in.Parents)
	require.Equal(t, []string{"ps"}, in.ParentSnapshots)
	in.Mut.ID = "changed"
	require.Same(t, r, g.Lookup("m"))
	require.Equal(t, "m", g.Inspect(r).Mut.ID)
	require.Len(t, g.InspectAll(), 2)
	require.Nil(t, g.Lookup("unknown"))

	require.True(t, g.Pin(r))
	require.False(t, condemns(g, viewOf(t, g, r)), "it is pinned")
	require.False(t, g.Unlink(r, 1).Remove)
	require.True(t, condemns(g, viewOf(t, g, r)))
	require.False(t, g.Pin(r))
	require.Same(t, r, g.Lookup("m"))
	require.Same(t, r, g.Lookup("i"))
	require.Len(t, g.InspectAll(), 1)
	require.NoError(t, g.Restore(r))
	require.Same(t, r, g.Lookup("i"))
	require.Empty(t, g.condemned)

	require.True(t, condemns(g, viewOf(t, g, r)))
	_, err := g.Drop(r)
	require.NoError(t, err)
	require.Nil(t, g.Lookup("m"))
	require.Empty(t, g.condemned)
	gone := g.Inspect(r)
	require.False(t, gone.Alive())
	_, v := g.Writer("p")
	require.Equal(t, Immutable, v)
}

// Spec MGR-25, quirk Q23: a record given up while its extraction is still being ended goes when that has ended, unless
// somebody has taken it up meanwhile.
func TestAbandonedWhilePinned(t *testing.T) {
	made := func() (*Graph, *Record) {
		g := New()
		r, ok := g.Insert(Spec{State: Lazy, Imm: &Meta{ID: "i", Blob: &Blob{Only: true}}, Ref: true, Triggers: true})
		require.True(t, ok)
		require.True(t, g.Pin(r))
		require.False(t, g.Abandon(r).Remove)
		return g, r
	}
	g, r := made()
	require.True(t, g.Unlink(r, 1).Remove)
	require.Nil(t, g.names["i"])

	for name, take := range map[string]func(g *Graph, r *Record){
		"ref": func(g *Graph, r *Record) {
			require.True(t, g.Clone(r, "i", false))
			require.False(t, g.UndoRef(r).Remove)
		},
		"child": func(g *Graph, r *Record) {
			require.True(t, g.Link(r, "i"))
			require.False(t, g.Unlink(r, 1).Remove)
		},
	} {
		g, r := made()
		take(g, r)
		require.False(t, g.Unlink(r, 1).Remove, name)
		require.Equal(t, r, g.names["i"], name)
	}
}
