package suites

import (
	"bytes"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

const small = `buildkit v1.2.3

package a: imports cache
fail TestBad: the stand-in does nothing
fail TestBad/sub
pass TestGood
skip/pass TestIdle: no moon
flaky TestTimes: five milliseconds are not enough here

package b/c: is below solver/llbsolver
fail/pass TestCut: a leak: of theirs
pass TestName/with:_colon

daemons d
daemons e
`

func smallList(t *testing.T) *List {
	t.Helper()
	l, err := ReadList(strings.NewReader(small))
	require.NoError(t, err)
	return l
}

func text(t *testing.T, l *List) string {
	t.Helper()
	var b bytes.Buffer
	_, err := l.WriteTo(&b)
	require.NoError(t, err)
	return b.String()
}

// TestList reads a list and writes it again.
func TestList(t *testing.T) {
	l := smallList(t)
	require.Equal(t, Entry{Fail, Pass, "a leak: of theirs"}, l.Tests[Test{"b/c", "TestCut"}])
	require.Equal(t, "the stand-in does nothing", l.reason(Test{"a", "TestBad/sub"}))
	require.Equal(t, []string{"d", "e"}, l.Daemons)
	require.Equal(t, listHead+small, text(t, l))
}

// TestListRefuses has lists that say too little, too much, or what must not be.
func TestListRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"no reason":           {"skip/pass TestIdle: no moon", "skip TestIdle"},
		"a question mark":     {"no moon", "?"},
		"worse on ours":       {"pass TestGood", "pass/fail TestGood: why not"},
		"skipped on ours":     {"pass TestGood", "pass/skip TestGood: why not"},
		"skips but fails":     {"skip/pass", "skip/fail"},
		"a test twice":        {"pass TestGood", "pass TestGood\npass TestGood"},
		"a package twice":     {"package b/c", "package a"},
		"package without why": {": imports cache", ""},
		"no such outcome":     {"pass TestGood", "good TestGood"},
		"no test":             {"pass TestGood", "pass "},
		"no package":          {"package a: imports cache\n", ""},
		"no version":          {"buildkit v1.2.3", ""},
		"a blank in a name":   {"pass TestGood", "pass Test Good"},
	} {
		bad := strings.Replace(small, change[0], change[1], 1)
		require.NotEqual(t, small, bad, name)
		_, err := ReadList(strings.NewReader(bad))
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
	}
	_, err := ReadList(strings.NewReader(""))
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// TestUpdate keeps reasons and what is flaky, takes the words of tests that are skipped, and asks for the rest.
func TestUpdate(t *testing.T) {
	l := smallList(t)
	stock, ours := readStream(t), readStream(t)
	stock.Outcomes[Test{"a", "TestTimes"}], ours.Outcomes[Test{"a", "TestTimes"}] = Pass, Pass
	stock.Outcomes[Test{"a", "TestNew"}], stock.Output[Test{"a", "TestNew"}] = Skip, "    a_test.go:1: at six\n    b_test.go:22: not on Sundays\n"
	ours.Outcomes[Test{"a", "TestNew"}] = Pass
	delete(ours.Outcomes, Test{"d", "TestGood"})
	l.Update([]Package{{Path: "a", Uses: []string{"cache", "snapshot"}}, {Path: "b/c", Leaf: true}, {Path: "d"}}, []Package{{Path: "z"}}, stock, ours)
	want := listHead + `buildkit v1.2.3

package a: imports cache, snapshot
fail TestBad: the stand-in does nothing
fail TestBad/sub
pass TestGood
skip TestIdle: no moon
skip/pass TestNew: not on Sundays
flaky TestTimes: five milliseconds are not enough here

package b/c: has types that become aliases
fail TestCut: a leak: of theirs

package d: is below solver/llbsolver
pass/fail TestGood

daemons z
`
	require.Equal(t, want, text(t, l))
	l.Tests[Test{"d", "TestGood"}] = Entry{Pass, Pass, ""}
	require.NoError(t, l.validate())

	stock.Outcomes[Test{"d", "TestGood"}], ours.Outcomes[Test{"d", "TestGood"}] = Fail, Fail
	l.Update([]Package{{Path: "d"}}, nil, stock, ours)
	require.Equal(t, Entry{Fail, Fail, unexplained}, l.Tests[Test{"d", "TestGood"}])
	require.ErrorContains(t, l.validate(), "d TestGood: fail on stock, and no reason is given")
}

// TestTable: the page counts every test on both sides, and explains what does not pass.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, smallList(t).WriteTable(&b))
	for _, line := range []string{
		"| a | imports cache | 1 | 2 | 1 | 2 | 2 | 0 | 1 |",
		"| b/c | is below solver/llbsolver | 1 | 1 | 0 | 2 | 0 | 0 | 0 |",
		"| **all** | | 2 | 3 | 1 | 4 | 2 | 0 | 1 |",
		"| a TestBad and a subtest | fail | fail | the stand-in does nothing |",
		"| a TestTimes | flaky | flaky | five milliseconds are not enough here |",
		"- e",
	} {
		require.Contains(t, b.String(), line+"\n")
	}
}
