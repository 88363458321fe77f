package suites

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is a difference between how a test ended and how it should have.
type Problem struct {
	// Test has no name where the problem is the package's.
	Test Test
	// Text says what is wrong.
	Text string
	// Output is what the test printed, if it did not pass.
	Output string
}

// String has all of it, the output indented and cut.
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", strings.TrimSpace(p.Test.String()), p.Text)
	lines := strings.Split(strings.TrimRight(p.Output, "\n"), "\n")
	if len(lines) > 40 {
		lines = append(lines[:10:10], append([]string{"..."}, lines[len(lines)-30:]...)...)
	}
	for _, line := range lines {
		if line != "" && !strings.HasPrefix(line, "=== ") {
			fmt.Fprintf(&b, "\n\t%s", line)
		}
	}
	return b.String()
}

// Rewrite is what a problem says that a change of the list would solve.
const Rewrite = "if that is right, rewrite the list: cd compat && go run ./cmd/suites -update"

// Check compares the results of one side with the list; they may be of some packages alone. The problems are sorted; none means that all is as
// the list says.
func (l *List) Check(side Side, got *Results) []Problem {
	var problems []Problem
	tell := func(test Test, format string, args ...any) {
		problems = append(problems, Problem{test, fmt.Sprintf(format, args...), got.Output[test]})
	}
	for _, text := range got.Broken {
		tell(Test{Package: string(side)}, "%s", text)
	}
	for test, e := range l.Tests {
		how, ran := got.Outcomes[test]
		want := e.Stock
		if side == Ours {
			want = e.Ours
		}
		switch _, tested := got.Seconds[test.Package]; {
		case !tested || e.Stock == Flaky && (ran || strings.Contains(test.Name, "/")):
			// Not asked for; or anything goes. A test that fails may do so before its subtests.
		case !ran:
			tell(test, "is missing on %s, and the list has %s", side, want)
		case how == want:
		case side == Ours && worse(e.Stock, how):
			tell(test, "stock: %s, ours: %s", e.Stock, how)
		default:
			tell(test, "%s on %s, where the list has %s; %s", how, side, want, Rewrite)
		}
	}
	for test, how := range got.Outcomes {
		if _, ok := l.Tests[test]; !ok && l.Tests[test.top()].Stock != Flaky {
			tell(test, "%s on %s, and is not in the list; %s", how, side, Rewrite)
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return a.Test.compare(b.Test) })
	return problems
}

// CheckPackages compares the packages that were selected with those of the list.
func (l *List) CheckPackages(selected, daemons []Package) []Problem {
	var problems []Problem
	tell := func(pkg, text string) {
		problems = append(problems, Problem{Test: Test{Package: pkg}, Text: text + "; " + Rewrite})
	}
	left := map[string]bool{}
	for pkg := range l.Packages {
		left[pkg] = true
	}
	for _, p := range selected {
		switch why, ok := l.Packages[p.Path]; {
		case !ok:
			tell(p.Path, p.Why()+", and is not in the list")
		case why != p.Why():
			tell(p.Path, fmt.Sprintf("is in the list because it %s, but now it %s", why, p.Why()))
		}
		delete(left, p.Path)
	}
	for pkg := range left {
		tell(pkg, "is in the list, but has no tests that have to do with the cache")
	}
	var paths []string
	for _, p := range daemons {
		paths = append(paths, p.Path)
	}
	if !slices.Equal(paths, l.Daemons) {
		tell("integration", fmt.Sprintf("the packages left out are %q, and in the list %q", paths, l.Daemons))
	}
	slices.SortFunc(problems, func(a, b Problem) int { return a.Test.compare(b.Test) })
	return problems
}

// Compare compares both sides with each other, without a list: what passes on stock has to pass on ours, and what runs on stock has to run
// on ours. What is flaky on stock is left out.
func Compare(stock, ours *Results) []Problem {
	var problems []Problem
	for _, text := range ours.Broken {
		if !slices.Contains(stock.Broken, text) {
			problems = append(problems, Problem{Test: Test{Package: string(Ours)}, Text: text})
		}
	}
	for _, test := range sorted(stock.Outcomes) {
		want, how := stock.Outcomes[test], ours.Outcomes[test]
		switch {
		case want == Flaky:
		case how == "":
			problems = append(problems, Problem{Test: test, Text: fmt.Sprintf("stock: %s, missing on ours", want)})
		case worse(want, how):
			problems = append(problems, Problem{test, fmt.Sprintf("stock: %s, ours: %s", want, how), ours.Output[test]})
		}
	}
	return problems
}
