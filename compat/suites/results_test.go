package suites

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// stream is what the go command says of three packages: in the first all kinds of tests, the second dies in the middle of one, and the third fails
// although its test does not.
const stream = `{"Action":"start","Package":"github.com/moby/buildkit/a"}
{"Action":"run","Package":"github.com/moby/buildkit/a","Test":"TestGood"}
{"Action":"output","Package":"github.com/moby/buildkit/a","Test":"TestGood","Output":"noise\n"}
{"Action":"pass","Package":"github.com/moby/buildkit/a","Test":"TestGood","Elapsed":0}
{"Action":"run","Package":"github.com/moby/buildkit/a","Test":"TestBad"}
{"Action":"run","Package":"github.com/moby/buildkit/a","Test":"TestBad/sub"}
{"Action":"output","Package":"github.com/moby/buildkit/a","Test":"TestBad/sub","Output":"    a_test.go:7: not so\n"}
{"Action":"fail","Package":"github.com/moby/buildkit/a","Test":"TestBad/sub","Elapsed":0}
{"Action":"fail","Package":"github.com/moby/buildkit/a","Test":"TestBad","Elapsed":0}
{"Action":"run","Package":"github.com/moby/buildkit/a","Test":"TestIdle"}
{"Action":"output","Package":"github.com/moby/buildkit/a","Test":"TestIdle","Output":"=== RUN   TestIdle\n"}
{"Action":"output","Package":"github.com/moby/buildkit/a","Test":"TestIdle","Output":"    a_test.go:9: no moon tonight\n"}
{"Action":"skip","Package":"github.com/moby/buildkit/a","Test":"TestIdle","Elapsed":0}
{"Action":"fail","Package":"github.com/moby/buildkit/a","Elapsed":1.5}
{"Action":"run","Package":"github.com/moby/buildkit/b/c","Test":"TestCut"}
{"Action":"output","Package":"github.com/moby/buildkit/b/c","Test":"TestCut","Output":"panic: here\n"}
{"Action":"fail","Package":"github.com/moby/buildkit/b/c","Elapsed":0.5}
{"Action":"run","Package":"github.com/moby/buildkit/d","Test":"TestGood"}
{"Action":"pass","Package":"github.com/moby/buildkit/d","Test":"TestGood","Elapsed":0}
{"Action":"output","Package":"github.com/moby/buildkit/d","Output":"exit status 3\n"}
{"Action":"fail","Package":"github.com/moby/buildkit/d","Elapsed":2}
{"ImportPath":"github.com/moby/buildkit/e","Action":"build-output","Output":"e.go:1: nonsense\n"}
{"ImportPath":"github.com/moby/buildkit/e","Action":"build-fail"}
`

func readStream(t *testing.T) *Results {
	t.Helper()
	r, err := Read(strings.NewReader(stream))
	require.NoError(t, err)
	return r
}

// TestRead: every test has its outcome, one that never ended has failed, and what goes wrong outside of tests is told.
func TestRead(t *testing.T) {
	r := readStream(t)
	require.Equal(t, map[Test]Outcome{
		{"a", "TestGood"}: Pass, {"a", "TestBad"}: Fail, {"a", "TestBad/sub"}: Fail, {"a", "TestIdle"}: Skip,
		{"b/c", "TestCut"}: Fail, {"d", "TestGood"}: Pass,
	}, r.Outcomes)
	require.Equal(t, "panic: here\n", r.Output[Test{"b/c", "TestCut"}])
	require.Contains(t, r.Output[Test{"a", "TestBad/sub"}], "not so")
	require.NotContains(t, r.Output, Test{"a", "TestGood"})
	require.Len(t, r.Broken, 2)
	require.Contains(t, r.Broken[0], "d failed outside of its tests: exit status 3")
	require.Contains(t, r.Broken[1], "e does not build: e.go:1: nonsense")
	require.Equal(t, map[string]float64{"a": 1.5, "b/c": 0.5, "d": 2}, r.Seconds)

	for _, bad := range []string{"", "FAIL\n", "{}\n", `{"Action":"start","Package":"x"}` + "\n"} {
		_, err := Read(strings.NewReader(bad))
		require.True(t, errdefs.IsInvalidArgument(err), "%q: %v", bad, err)
	}
}

// TestUnlucky: a package of which a test could not execute what it had just written runs again, and its results are those of that run. A test
// that only speaks of it is not concerned.
func TestUnlucky(t *testing.T) {
	require.Empty(t, readStream(t).Unlucky())
	r, err := Read(strings.NewReader(strings.ReplaceAll(strings.ReplaceAll(stream, "not so", "fork/exec /tmp/git: text file busy"), "noise", "text file busy")))
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"a": true}, r.Unlucky())

	again := newResults()
	again.Seconds["a"], again.Outcomes[Test{"a", "TestBad"}] = 1, Pass
	r.replace(again)
	require.Empty(t, r.Unlucky())
	require.Equal(t, map[Test]Outcome{{"a", "TestBad"}: Pass, {"b/c", "TestCut"}: Fail, {"d", "TestGood"}: Pass}, r.Outcomes)
	require.Equal(t, map[Test]string{{"b/c", "TestCut"}: "panic: here\n"}, r.Output)
	require.InDelta(t, 1, r.Seconds["a"], 0)
}

// TestRepeated: what ends differently in a second run is flaky, also what is not there in one of them.
func TestRepeated(t *testing.T) {
	r, again := readStream(t), readStream(t)
	again.Outcomes[Test{"a", "TestGood"}] = Fail
	again.Output[Test{"a", "TestGood"}] = "this time"
	again.Outcomes[Test{"a", "TestNew"}] = Pass
	delete(again.Outcomes, Test{"a", "TestBad/sub"})
	again.Broken = append(again.Broken, "f")
	r.add(again)
	require.Equal(t, map[Test]Outcome{
		{"a", "TestGood"}: Flaky, {"a", "TestBad"}: Fail, {"a", "TestBad/sub"}: Flaky, {"a", "TestIdle"}: Skip, {"a", "TestNew"}: Flaky,
		{"b/c", "TestCut"}: Fail, {"d", "TestGood"}: Pass,
	}, r.Outcomes)
	require.Equal(t, "this time", r.Output[Test{"a", "TestGood"}])
	require.Len(t, r.Broken, 3)
	r.add(readStream(t))
	require.Equal(t, Flaky, r.Outcomes[Test{"a", "TestGood"}])
	require.Equal(t, Test{"a", "TestBad"}, r.Tests()[0])
}
