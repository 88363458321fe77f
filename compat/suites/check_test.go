package suites

import (
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// asListed returns results that are as the list says.
func asListed(l *List, side Side) *Results {
	r := newResults()
	for test, e := range l.Tests {
		r.Outcomes[test] = e.Stock
		if side == Ours {
			r.Outcomes[test] = e.Ours
		}
		r.Seconds[test.Package] = 1
	}
	return r
}

// told returns the problems as text, one per line.
func told(problems []Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// TestCheck changes one thing after the other in results that are as the list says: each is one problem.
func TestCheck(t *testing.T) {
	l := smallList(t)
	for _, side := range []Side{Stock, Ours} {
		require.Empty(t, l.Check(side, asListed(l, side)))
	}
	good, idle, times := Test{"a", "TestGood"}, Test{"a", "TestIdle"}, Test{"a", "TestTimes"}
	for name, c := range map[string]struct {
		side   Side
		change func(*Results)
		want   string
	}{
		"fails":        {Ours, func(r *Results) { r.Outcomes[good], r.Output[good] = Fail, "=== RUN x\nboom\n" }, "a TestGood: stock: pass, ours: fail\n\tboom"},
		"skipped":      {Ours, func(r *Results) { r.Outcomes[good] = Skip }, "a TestGood: stock: pass, ours: skip"},
		"missing":      {Ours, func(r *Results) { delete(r.Outcomes, good) }, "a TestGood: is missing on ours, and the list has pass"},
		"skipped now":  {Ours, func(r *Results) { r.Outcomes[idle] = Skip }, "a TestIdle: skip on ours, where the list has pass; " + Rewrite},
		"fails there":  {Stock, func(r *Results) { r.Outcomes[good] = Fail }, "a TestGood: fail on stock, where the list has pass; " + Rewrite},
		"passes there": {Stock, func(r *Results) { r.Outcomes[idle] = Pass }, "a TestIdle: pass on stock, where the list has skip; " + Rewrite},
		"new":          {Ours, func(r *Results) { r.Outcomes[Test{"a", "TestNew"}] = Pass }, "a TestNew: pass on ours, and is not in the list; " + Rewrite},
		"does not build": {Ours, func(r *Results) {
			r.Broken = []string{"a does not build"}
			maps.DeleteFunc(r.Outcomes, func(test Test, _ Outcome) bool { return test.Package == "a" })
			delete(r.Seconds, "a")
		}, "ours: a does not build"},
		"flaky and missing": {Ours, func(r *Results) { delete(r.Outcomes, times) }, "a TestTimes: is missing on ours, and the list has flaky"},
	} {
		r := asListed(l, c.side)
		c.change(r)
		require.Equal(t, c.want, told(l.Check(c.side, r)), name)
	}
	for _, how := range []Outcome{Pass, Fail, Skip} {
		r := asListed(l, Ours)
		r.Outcomes[times], r.Outcomes[Test{"a", "TestTimes/sub"}] = how, how
		require.Empty(t, l.Check(Ours, r))
	}
}

// TestCheckSome: packages that were not asked for are not missed.
func TestCheckSome(t *testing.T) {
	l := smallList(t)
	some := asListed(l, Ours).of(map[string]bool{"b/c": true})
	require.Len(t, some.Outcomes, 2)
	require.Empty(t, l.Check(Ours, some))
}

// TestCheckPackages: a package that appears, goes, or has another reason to be there is a problem.
func TestCheckPackages(t *testing.T) {
	l := smallList(t)
	a, c := Package{Path: "a", Uses: []string{"cache"}}, Package{Path: "b/c"}
	d, e := Package{Path: "d"}, Package{Path: "e"}
	require.Empty(t, l.CheckPackages([]Package{a, c}, []Package{d, e}))
	require.Contains(t, told(l.CheckPackages([]Package{a, c, {Path: "x", Leaf: true}}, []Package{d, e})), "x: has types that become aliases, and is not in the list")
	require.Contains(t, told(l.CheckPackages([]Package{a}, []Package{d, e})), "b/c: is in the list, but has no tests")
	require.Contains(t, told(l.CheckPackages([]Package{{Path: "a", Leaf: true}, c}, []Package{d, e})), "a: is in the list because it imports cache, but now it has types")
	require.Contains(t, told(l.CheckPackages([]Package{a, c}, []Package{d})), "integration: the packages left out")
}

// TestCompare has no list: stock is what counts.
func TestCompare(t *testing.T) {
	l := smallList(t)
	stock, ours := asListed(l, Stock), asListed(l, Ours)
	require.Empty(t, Compare(stock, ours))
	stock.Broken, ours.Broken = []string{"both"}, []string{"both", "one"}
	delete(ours.Outcomes, Test{"a", "TestBad/sub"})
	ours.Outcomes[Test{"a", "TestTimes"}] = Fail
	ours.Outcomes[Test{"a", "TestGood"}], ours.Output[Test{"a", "TestGood"}] = Fail, strings.Repeat("line\n", 100)
	out := told(Compare(stock, ours))
	require.Contains(t, out, "ours: one\na TestBad/sub: stock: fail, missing on ours\na TestGood: stock: pass, ours: fail\n\tline\n")
	require.Equal(t, 40, strings.Count(out, "\tline"))
	require.Contains(t, out, "\t...\n")
	require.NotContains(t, out, "TestTimes")
}
