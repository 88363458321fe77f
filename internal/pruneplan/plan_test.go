package pruneplan_test

import (
	"math"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/pruneplan"
)

// example is the worked example of spec PRN-12, each record with an object of 10 bytes.
func example() (items []pruneplan.Item, sizes []int64) {
	for i, it := range []pruneplan.Item{
		{ID: "A", LastUsed: 10, Count: 5},
		{ID: "B", LastUsed: 40, Count: 1},
		{ID: "C", LastUsed: 0, Count: 0},
		{ID: "D", LastUsed: 20, Count: 2},
		{ID: "E", LastUsed: 30, Count: 1},
	} {
		it.Eligible, it.Created, it.Objects = true, int64(100-i), []int{i}
		items, sizes = append(items, it), append(sizes, 10)
	}
	return items, sizes
}

// prune takes steps until at most keep bytes are left, and names what goes (spec PRN-6).
func prune(p *pruneplan.Plan, items []pruneplan.Item, keep int64) (ids string, left int64) {
	var names []string
	for left = p.Total(); left > keep; {
		step, ok := p.Next()
		if !ok {
			break
		}
		left -= step.Counted
		names = append(names, items[step.Item].ID)
	}
	return strings.Join(names, " "), left
}

func TestOrderOfTheWorkedExample(t *testing.T) { // spec PRN-6, PRN-12, PRN-13, scenario S-30, quirk Q66, Q70
	for _, c := range []struct {
		keep, left int64
		gone       string
	}{
		{keep: 0, left: 0, gone: "C E A D B"},
		{keep: 25, left: 20, gone: "C E A"},
		{keep: 20, left: 20, gone: "C E A"},
		{keep: 49, left: 40, gone: "C"},
		{keep: 50, left: 50, gone: ""},
	} {
		items, sizes := example()
		p, err := pruneplan.New(items, sizes)
		require.NoError(t, err)
		require.EqualValues(t, 50, p.Total())
		gone, left := prune(p, items, c.keep)
		require.Equal(t, c.gone, gone)
		require.Equal(t, c.left, left)
	}
}

// Spec PRN-12, quirk Q69: equal scores go by last use, count, creation and ID, in this order.
func TestTiesAreATotalOrder(t *testing.T) {
	items := []pruneplan.Item{
		{ID: "z", Created: 3},
		{ID: "y", Created: 3},
		{ID: "x", Created: 4},
		{ID: "w", Created: -1, LastUsed: -7, Count: -7}, // as if never used
		{ID: "late", LastUsed: 9, Count: 1, Created: 1},
		{ID: "early", LastUsed: 5, Count: 2, Created: 2},
		{ID: "held", LastUsed: 0, Created: 0, Links: 1},
		{ID: "kept", LastUsed: 0, Created: 0},
	}
	for i := range items {
		items[i].Eligible = items[i].ID != "kept"
		items[i].Objects = []int{i}
	}
	sizes := []int64{1, 1, 1, 1, 1, 1, 1, 1}
	p, err := pruneplan.New(items, sizes)
	require.NoError(t, err)
	gone, left := prune(p, items, 0)
	require.Equal(t, "w y z x early late", gone)
	require.EqualValues(t, 2, left)
	_, ok := p.Next()
	require.False(t, ok, "it stays at its end")
}

func TestParentsFollowTheirLastChild(t *testing.T) { // spec PRN-7, PRN-11
	items := []pruneplan.Item{
		{ID: "base", Links: 3},
		{ID: "merge", LastUsed: 50, Count: 9, Parents: []int{0, 0, 2}},
		{ID: "leg", LastUsed: 1, Count: 1, Links: 1},
		{ID: "top", LastUsed: 60, Count: 10, Parents: []int{0}},
		{ID: "alone", LastUsed: 70, Count: 11},
		{ID: "pinned child", Parents: []int{6}},
		{ID: "its parent", Links: 1},
	}
	for i := range items {
		items[i].Eligible = items[i].ID != "pinned child"
	}
	p, err := pruneplan.New(items, nil)
	require.NoError(t, err)
	require.Zero(t, p.Total())
	gone, _ := prune(p, items, -1)
	require.Equal(t, "merge leg top base alone", gone)

	p, err = pruneplan.NewPlain(items, nil)
	require.NoError(t, err)
	gone, _ = prune(p, items, -1)
	require.Equal(t, "merge top alone base leg", gone)
}

func TestScoresOfTheCallers(t *testing.T) {
	items, sizes := example()
	p, err := pruneplan.NewScored(items, sizes, []float64{1, math.Inf(-1), 2, 1, 1.5})
	require.NoError(t, err)
	gone, _ := prune(p, items, 0)
	require.Equal(t, "B A D E C", gone)

	items[1].Parents, items[4].Links = []int{4}, 1 // E becomes a candidate when B goes
	p, err = pruneplan.NewScored(items, sizes, []float64{1, 1.2, 2, 1, math.Inf(-1)})
	require.NoError(t, err)
	gone, _ = prune(p, items, 0)
	require.Equal(t, "A D B E C", gone)
}

func TestObjectsAreCountedOnce(t *testing.T) { // spec PRN-4, PRN-6, quirk Q68
	const snapshot, blob, foreign, unknown = 0, 1, 2, 3
	items := []pruneplan.Item{
		{ID: "a", Eligible: true, Objects: []int{snapshot, blob, blob}},
		{ID: "b", Eligible: true, Objects: []int{blob, foreign, unknown}},
		{ID: "c", Eligible: true, Shared: true, Objects: []int{foreign}},
		{ID: "d", Objects: []int{4}},
	}
	sizes := []int64{100, 10, 1000, -1, 1, 5000}
	p, err := pruneplan.New(items, sizes)
	require.NoError(t, err)
	require.EqualValues(t, 111, p.Total(), "without what a shared record owns, and without what nobody does")
	for _, want := range []pruneplan.Step{
		{Item: 0, Freed: 100, Counted: 100},
		{Item: 1, Freed: 10, Counted: 10},
		{Item: 2, Freed: 1000},
	} {
		step, ok := p.Next()
		require.True(t, ok)
		require.Equal(t, want, step)
	}
	_, ok := p.Next()
	require.False(t, ok)

	// The shared one goes first: what it owned as well is freed by the other, and is still not part of the total.
	items[2].Created = -1
	p, err = pruneplan.New(items, sizes)
	require.NoError(t, err)
	for _, want := range []pruneplan.Step{
		{Item: 2},
		{Item: 0, Freed: 100, Counted: 100},
		{Item: 1, Freed: 1010, Counted: 10},
	} {
		step, ok := p.Next()
		require.True(t, ok)
		require.Equal(t, want, step)
	}
}

func TestAbsurdSizesDoNotOverflow(t *testing.T) {
	items := []pruneplan.Item{{Eligible: true, Objects: []int{0, 1}}}
	p, err := pruneplan.New(items, []int64{math.MaxInt64, 5})
	require.NoError(t, err)
	require.Equal(t, int64(math.MaxInt64), p.Total())
	step, ok := p.Next()
	require.True(t, ok)
	require.Equal(t, pruneplan.Step{Freed: math.MaxInt64, Counted: math.MaxInt64}, step)
}

func TestContradictoryInput(t *testing.T) {
	for name, items := range map[string][]pruneplan.Item{
		"parent below range":   {{Parents: []int{-1}}},
		"parent above range":   {{Parents: []int{1}}},
		"object below range":   {{Objects: []int{-1}}},
		"object above range":   {{Objects: []int{2}}},
		"links not accounted":  {{}, {Parents: []int{0}}},
		"negative links":       {{Links: -1}},
		"fewer than mentioned": {{Links: 1}, {Parents: []int{0, 0}}},
	} {
		sizes, scores := []int64{1, 2}, make([]float64, len(items))
		_, err := pruneplan.New(items, sizes)
		require.True(t, errdefs.IsInvalidArgument(err), name)
		_, err = pruneplan.NewPlain(items, sizes)
		require.True(t, errdefs.IsInvalidArgument(err), name)
		_, err = pruneplan.NewScored(items, sizes, scores)
		require.True(t, errdefs.IsInvalidArgument(err), name)
	}
	_, err := pruneplan.NewScored([]pruneplan.Item{{}}, nil, []float64{math.NaN()})
	require.True(t, errdefs.IsInvalidArgument(err))
	_, err = pruneplan.NewScored([]pruneplan.Item{{}}, nil, nil)
	require.True(t, errdefs.IsInvalidArgument(err))
}

// Records that lie on each other in a circle are no candidates, and do not keep the rest from going.
func TestCircleStays(t *testing.T) {
	items := []pruneplan.Item{
		{ID: "a", Eligible: true, Parents: []int{1}, Links: 1},
		{ID: "b", Eligible: true, Parents: []int{0}, Links: 1},
		{ID: "self", Eligible: true, Parents: []int{2}, Links: 1},
		{ID: "c", Eligible: true},
	}
	p, err := pruneplan.New(items, nil)
	require.NoError(t, err)
	gone, _ := prune(p, items, -1)
	require.Equal(t, "c", gone)
}

func TestNothingToPlan(t *testing.T) { // scenario S-28
	p, err := pruneplan.New(nil, nil)
	require.NoError(t, err)
	require.Zero(t, p.Total())
	_, ok := p.Next()
	require.False(t, ok)
	p, err = pruneplan.NewPlain(nil, nil)
	require.NoError(t, err)
	_, ok = p.Next()
	require.False(t, ok)
}
