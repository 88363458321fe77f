package suites

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Entry is what a list says of a test.
type Entry struct {
	// Stock and Ours are how it ends on either side. A test that is flaky on stock is allowed to be so on ours.
	Stock, Ours Outcome
	// Reason says why it does not pass on stock. A subtest may leave that to the test that it is part of.
	Reason string
}

// List says how the tests of some packages end.
type List struct {
	// Version is BuildKit's.
	Version string
	// Packages are the packages that are run, sorted, and why each is.
	Packages map[string]string
	// Daemons are the packages that are not run, because their tests do nothing but start daemons.
	Daemons []string
	// Tests has every test.
	Tests map[Test]Entry
}

// unexplained is the reason of what nobody has explained yet.
const unexplained = "?"

const listHead = `# How the tests of BuildKit end, on its own cache and on this library: written by
#	cd compat && go run ./cmd/suites -update
# and read by package suites. A line is an outcome and a test; two outcomes with a slash are those of stock and of ours, where they
# differ. What does not pass on stock has its reason after a colon, which is written by hand and kept.
`

// WriteTo writes the list in the form that ReadList reads.
func (l *List) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	b.WriteString(listHead)
	fmt.Fprintf(&b, "buildkit %s\n", l.Version)
	for _, pkg := range slices.Sorted(maps.Keys(l.Packages)) {
		fmt.Fprintf(&b, "\npackage %s: %s\n", pkg, l.Packages[pkg])
		for _, test := range sorted(l.Tests) {
			if test.Package == pkg {
				fmt.Fprintln(&b, l.Tests[test].line(test))
			}
		}
	}
	b.WriteByte('\n')
	for _, pkg := range l.Daemons {
		fmt.Fprintf(&b, "daemons %s\n", pkg)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), errors.WithStack(err)
}

func (e Entry) line(test Test) string {
	line := string(e.Stock)
	if e.Ours != e.Stock {
		line += "/" + string(e.Ours)
	}
	line += " " + test.Name
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	return line
}

// ReadList reads a list. One that is no list, says something twice or lacks a reason is an invalid argument, and so is one in which ours does
// worse than stock.
func ReadList(r io.Reader) (*List, error) {
	l := &List{Packages: map[string]string{}, Tests: map[Test]Entry{}}
	sc := bufio.NewScanner(r)
	pkg := ""
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		var err error
		switch word {
		case "buildkit":
			l.Version = rest
		case "daemons":
			l.Daemons = append(l.Daemons, rest)
		case "package":
			if pkg, err = l.readPackage(rest); err != nil {
				return nil, errors.WithMessagef(err, "line %d", n)
			}
		default:
			if err := l.readTest(pkg, word, rest); err != nil {
				return nil, errors.WithMessagef(err, "line %d", n)
			}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, errors.Wrap(err, "reading a list of tests")
	}
	return l, l.validate()
}

func (l *List) readPackage(text string) (string, error) {
	pkg, why, _ := strings.Cut(text, ": ")
	if _, twice := l.Packages[pkg]; twice || pkg == "" || why == "" {
		return "", errors.Wrapf(errdefs.ErrInvalidArgument, "want `package NAME: WHY`, once, not %q", text)
	}
	l.Packages[pkg] = why
	return pkg, nil
}

func (l *List) readTest(pkg, outcomes, text string) error {
	stock, ours, two := strings.Cut(outcomes, "/")
	if !two {
		ours = stock
	}
	// A subtest's name may have a colon, but has no blanks.
	name, reason, _ := strings.Cut(text, ": ")
	test, e := Test{pkg, name}, Entry{Outcome(stock), Outcome(ours), reason}
	_, twice := l.Tests[test]
	if twice || !e.Stock.valid() || !e.Ours.valid() || pkg == "" || name == "" || strings.Contains(name, " ") {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "want `OUTCOME TEST` or `OUTCOME TEST: REASON`, once in a package, not %q", outcomes+" "+text)
	}
	l.Tests[test] = e
	return nil
}

// validate finds what a list must not say.
func (l *List) validate() error {
	var bad []string
	for _, test := range sorted(l.Tests) {
		e := l.Tests[test]
		if worse(e.Stock, e.Ours) {
			bad = append(bad, fmt.Sprintf("%s: %s on stock, %s on ours", test, e.Stock, e.Ours))
		}
		reason := l.reason(test)
		if e.Stock != Pass && (reason == "" || reason == unexplained) {
			bad = append(bad, fmt.Sprintf("%s: %s on stock, and no reason is given", test, e.Stock))
		}
	}
	if l.Version == "" || len(l.Tests) == 0 {
		bad = append(bad, "no version of BuildKit, or no tests")
	}
	if len(bad) == 0 {
		return nil
	}
	return errors.Wrapf(errdefs.ErrInvalidArgument, "the list of BuildKit's tests: %s", strings.Join(bad, "\n"))
}

// reason returns the reason of a test, or of the one that it is part of.
func (l *List) reason(test Test) string {
	if r := l.Tests[test].Reason; r != "" {
		return r
	}
	return l.Tests[test.top()].Reason
}

// worse tells whether ours does not do what stock does.
func worse(stock, ours Outcome) bool {
	switch stock {
	case Pass:
		return ours != Pass
	case Skip:
		return ours == Fail || ours == Flaky
	default:
		return false
	}
}

// where a test says something in its own words.
var said = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.+)$`)

// Update puts results into the list: all packages that were run, with what was selected and what was not. Reasons are kept; what is
// new and does not pass gets what the test said when it was skipped, and otherwise a question mark, with which the list is not valid. A test that
// is known to be flaky stays so.
func (l *List) Update(selected, daemons []Package, stock, ours *Results) {
	old := l.Tests
	l.Packages, l.Daemons, l.Tests = map[string]string{}, nil, map[Test]Entry{}
	for _, p := range selected {
		l.Packages[p.Path] = p.Why()
	}
	for _, p := range daemons {
		l.Daemons = append(l.Daemons, p.Path)
	}
	for _, test := range sorted(stock.Outcomes) {
		e := Entry{Stock: stock.Outcomes[test], Ours: ours.Outcomes[test]}
		if e.Ours == "" {
			e.Ours = Fail // is missing
		}
		if old[test].Stock == Flaky {
			e.Stock, e.Ours = Flaky, Flaky
		}
		if e.Stock != Pass {
			e.Reason = old[test].Reason
			if e.Reason == "" && l.Tests[test.top()].Reason == "" {
				e.Reason = unexplained
				if m := said.FindAllStringSubmatch(stock.Output[test], -1); m != nil && e.Stock == Skip {
					e.Reason = m[len(m)-1][1]
				}
			}
		}
		l.Tests[test] = e
	}
}
