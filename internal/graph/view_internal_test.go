package graph

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// chains makes a graph of chains of ten records, the last of each tenth chain held.
func chains(tb testing.TB, n int) *Graph {
	tb.Helper()
	g := New()
	var parent *Record
	for i := range n {
		s := Spec{State: Ready, Imm: &Meta{ID: fmt.Sprintf("%08d", i)}, Ref: i%100 == 99}
		if i%10 > 0 {
			require.True(tb, g.Link(parent, parent.imm.ID))
			s.Kind, s.Parents = Layer, []*Record{parent}
		}
		var ok bool
		parent, ok = g.Insert(s)
		require.True(tb, ok)
	}
	return g
}

// What a record is told of, and which are in use, in a graph from which records have gone. Spec DU-2.
func TestViewOfChains(t *testing.T) {
	g := chains(t, 200)
	gone := g.records[len(g.records)-101]
	require.Equal(t, "00000099", gone.imm.ID)
	require.Equal(t, Outcome{Last: true}, g.DropRef(gone, false, 0))
	views := g.View()
	chosen := g.Condemn([]*View{viewNamed(t, views, "00000099")})
	require.Len(t, chosen, 1)

	// Its parents are not in use any more, though the record, which nobody sees, lies on them still.
	views = g.View()
	require.Len(t, views, 199)
	for i := range views {
		v := &views[i]
		id := v.Meta.ID
		require.Equal(t, id == "00000199", v.Held, id)
		require.Equal(t, id >= "00000190", v.InUse, id)
		links := 1
		if id[7] == '9' {
			links = 0
		}
		require.Equal(t, links, v.Links, id)
		require.Same(t, g.names[id], v.Record)
	}
	require.True(t, g.Clone(gone.parents[0], "00000098", false))
	require.True(t, viewNamed(t, g.View(), "00000090").InUse)
}

func viewNamed(t *testing.T, views []View, id string) *View {
	t.Helper()
	for i := range views {
		if views[i].Meta.ID == id {
			return &views[i]
		}
	}
	require.FailNow(t, "no view", id)
	return nil
}

// How long the graph is locked to look at all records.
func BenchmarkGlances(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := chains(b, n)
			b.ReportAllocs()
			for b.Loop() {
				require.Len(b, g.glances(), n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
		})
	}
}
