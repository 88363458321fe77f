package suites

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pkg/errors"
)

const tableHead = `# BuildKit's own tests on this cache

Written by ` + "`cd compat && go run ./cmd/suites -update`" + `; do not edit.

These are the tests of BuildKit %s, built once as they are and once with the overlay of [buildkit.md](buildkit.md), and run as root
on the same machine: every package with tests that import one of the replaced packages, that keep a type of the library's as an alias, or that lie below
` + "`solver/llbsolver`" + `. The replaced packages' own tests look inside of them and are gone with them; what they pin is in the rules that
[rules.md](rules.md) lists, with tests of ours.

Each test binary has mounts of its own and a network that reaches nobody else. For the tests of the worker, which need an image, a registry with
Debian's busybox is started in that network. CI runs ours against [the list](../compat/suites/stock.txt) of how every test ends on stock: ` + "`.ci/run`" + `
one package in six, others at each commit, and ` + "`.ci/full`" + ` all, with the list made anew. What passes on stock and not on ours fails it, and so does a list that stock has changed.
`

// WriteTable writes the list as a page of Markdown.
func (l *List) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, tableHead, l.Version)
	b.WriteString("\nSubtests are counted, too.\n\n| Package | Why it is here | Stock: pass | fail | skip | Ours: pass | fail | skip | Flaky on both |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	var all counts
	for _, pkg := range slices.Sorted(maps.Keys(l.Packages)) {
		c := l.count(pkg)
		all.add(c)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", pkg, l.Packages[pkg], c)
	}
	fmt.Fprintf(&b, "| **all** | | %s |\n", all)
	l.writeReasons(&b)
	if len(l.Daemons) > 0 {
		b.WriteString("\n## Left out\n\nThe tests of these packages build with daemons, containerd and images from the network (`util/testutil/integration`), and touch the cache only through " +
			"them. compat/e2e builds with daemons, without a network.\n\n")
		for _, pkg := range l.Daemons {
			fmt.Fprintf(&b, "- %s\n", pkg)
		}
	}
	_, err := io.WriteString(w, b.String())
	return errors.WithStack(err)
}

// writeReasons lists what does not pass on both sides, with its subtests on one line.
func (l *List) writeReasons(b *strings.Builder) {
	b.WriteString("\n## What does not pass on stock\n\n| Test | Stock | Ours | Reason |\n|---|---|---|---|\n")
	subtests := map[string]int{}
	for test, e := range l.Tests {
		if e.Stock != Pass && e.Reason == "" {
			subtests[test.top().String()]++
		}
	}
	for _, test := range sorted(l.Tests) {
		e := l.Tests[test]
		if e.Stock == Pass || e.Reason == "" {
			continue
		}
		name := test.String()
		switch n := subtests[name]; {
		case n == 1:
			name += " and a subtest"
		case n > 1:
			name += fmt.Sprintf(" and %d subtests", n)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name, e.Stock, e.Ours, strings.ReplaceAll(e.Reason, "|", `\|`))
	}
}

// counts are numbers of tests by how they end on each side.
type counts struct{ stock, ours map[Outcome]int }

func (l *List) count(pkg string) counts {
	c := counts{map[Outcome]int{}, map[Outcome]int{}}
	for test, e := range l.Tests {
		if test.Package == pkg {
			c.stock[e.Stock]++
			c.ours[e.Ours]++
		}
	}
	return c
}

func (c *counts) add(o counts) {
	if c.stock == nil {
		c.stock, c.ours = map[Outcome]int{}, map[Outcome]int{}
	}
	for how, n := range o.stock {
		c.stock[how] += n
	}
	for how, n := range o.ours {
		c.ours[how] += n
	}
}

// String is the cells of a row.
func (c counts) String() string {
	var cells []string
	for _, side := range []map[Outcome]int{c.stock, c.ours} {
		for _, how := range []Outcome{Pass, Fail, Skip} {
			cells = append(cells, fmt.Sprint(side[how]))
		}
	}
	return strings.Join(append(cells, fmt.Sprint(c.stock[Flaky])), " | ")
}
