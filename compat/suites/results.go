package suites

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Outcome is how a test ended.
type Outcome string

// The outcomes.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail" // also one that began and never ended
	Skip Outcome = "skip"
	// Flaky is a test that ended differently when it was run again.
	Flaky Outcome = "flaky"
)

func (o Outcome) valid() bool { return o == Pass || o == Fail || o == Skip || o == Flaky }

// Test names a test.
type Test struct {
	// Package is relative to BuildKit's module.
	Package string
	// Name has the names of subtests in it, as `go test` prints it.
	Name string
}

// String is what a list has for the test.
func (t Test) String() string { return t.Package + " " + t.Name }

// top returns the test of which this is a subtest, or itself.
func (t Test) top() Test {
	name, _, _ := strings.Cut(t.Name, "/")
	return Test{t.Package, name}
}

func (t Test) compare(o Test) int {
	if c := strings.Compare(t.Package, o.Package); c != 0 {
		return c
	}
	return strings.Compare(t.Name, o.Name)
}

// Results is how the tests of some packages ended.
type Results struct {
	// Outcomes has every test that ran, subtests included.
	Outcomes map[Test]Outcome
	// Output is what tests printed that did not pass.
	Output map[Test]string
	// Broken is what went wrong outside of tests: packages that do not build, and those that failed though none of their tests did. An
	// entry says of which package it speaks, and how.
	Broken []string
	// Seconds is how long each package's tests took.
	Seconds map[string]float64
}

func newResults() *Results {
	return &Results{Outcomes: map[Test]Outcome{}, Output: map[Test]string{}, Seconds: map[string]float64{}}
}

// fileBusy is what a test says whose program could not be executed, as a child that another test was just starting still had it open for
// writing (Go issue 22315). BuildKit's tests write programs and execute them; it says nothing of what they test.
const fileBusy = "text file busy"

// Unlucky returns the packages with tests that did not pass because of that.
func (r *Results) Unlucky() map[string]bool {
	packages := map[string]bool{}
	for test, out := range r.Output {
		if r.Outcomes[test] != Pass && strings.Contains(out, fileBusy) {
			packages[test.Package] = true
		}
	}
	return packages
}

// replace takes the results of packages that ran again.
func (r *Results) replace(again *Results) {
	ran := func(test Test, _ Outcome) bool { _, ok := again.Seconds[test.Package]; return ok }
	maps.DeleteFunc(r.Output, func(test Test, _ string) bool { return ran(test, r.Outcomes[test]) })
	maps.DeleteFunc(r.Outcomes, ran)
	maps.Copy(r.Outcomes, again.Outcomes)
	maps.Copy(r.Output, again.Output)
	maps.Copy(r.Seconds, again.Seconds)
	r.Broken = append(r.Broken, again.Broken...)
}

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string
	Elapsed                       float64
}

// reader follows one stream of events.
type reader struct {
	*Results
	output map[Test][]string
	build  map[string][]string // what the compiler says, by package
	ended  map[string]bool
}

// Read reads what `go test -json` wrote. A line that is no event is an invalid argument; so is a stream without any package.
func Read(stream io.Reader) (*Results, error) {
	r := &reader{newResults(), map[Test][]string{}, map[string][]string{}, map[string]bool{}}
	sc := bufio.NewScanner(stream)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil || e.Action == "" {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "not a test event: %q", sc.Text())
		}
		e.Package = strings.TrimPrefix(e.Package, buildkitModule)
		r.event(e)
	}
	if err := sc.Err(); err != nil {
		return nil, errors.Wrap(err, "reading test events")
	}
	if len(r.ended) == 0 {
		return nil, errors.Wrap(errdefs.ErrInvalidArgument, "no package was tested")
	}
	slices.Sort(r.Broken)
	return r.Results, nil
}

func (r *reader) event(e event) {
	key := Test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.build[e.ImportPath] = append(r.build[e.ImportPath], e.Output)
	case "build-fail":
		r.Broken = append(r.Broken, fmt.Sprintf("%s does not build: %s", e.ImportPath, strings.Join(r.build[e.ImportPath], "")))
	case "output":
		r.output[key] = append(r.output[key], e.Output)
	case "run":
		r.Outcomes[key] = Fail // until it ends
	case "pass", "fail", "skip":
		if e.Test != "" {
			r.end(key, Outcome(e.Action))
			return
		}
		r.endPackage(e)
	}
}

func (r *reader) end(key Test, how Outcome) {
	r.Outcomes[key] = how
	if how != Pass {
		r.Output[key] = strings.Join(r.output[key], "")
	}
	delete(r.output, key)
}

func (r *reader) endPackage(e event) {
	r.ended[e.Package] = true
	r.Seconds[e.Package] = e.Elapsed
	failed := false
	for key, how := range r.Outcomes {
		if key.Package != e.Package {
			continue
		}
		failed = failed || how == Fail
		if lines, left := r.output[key]; left { // began and never ended
			r.end(key, Fail)
			r.Output[key] = strings.Join(lines, "")
		}
	}
	if e.Action == "fail" && !failed {
		r.Broken = append(r.Broken, fmt.Sprintf("%s failed outside of its tests: %s", e.Package, strings.Join(r.output[Test{Package: e.Package}], "")))
	}
}

// add takes the results of one more run in. A test that ended differently, or was not there each time, is flaky.
func (r *Results) add(again *Results) {
	for test, how := range again.Outcomes {
		if old, ok := r.Outcomes[test]; !ok || old != how {
			r.Outcomes[test] = Flaky
		}
	}
	for test := range r.Outcomes {
		if _, ok := again.Outcomes[test]; !ok {
			r.Outcomes[test] = Flaky
		}
	}
	for test, text := range again.Output {
		if r.Output[test] == "" || again.Outcomes[test] == Fail {
			r.Output[test] = text
		}
	}
	for _, text := range again.Broken {
		if !slices.Contains(r.Broken, text) {
			r.Broken = append(r.Broken, text)
		}
	}
	for pkg, seconds := range again.Seconds {
		r.Seconds[pkg] = max(r.Seconds[pkg], seconds)
	}
}

// Tests returns the tests that ran, in order.
func (r *Results) Tests() []Test { return sorted(r.Outcomes) }

// of returns the results of some packages.
func (r *Results) of(packages map[string]bool) *Results {
	some := newResults()
	some.Broken = r.Broken
	for test, how := range r.Outcomes {
		if packages[test.Package] {
			some.Outcomes[test] = how
			some.Output[test] = r.Output[test]
		}
	}
	for pkg, seconds := range r.Seconds {
		if packages[pkg] {
			some.Seconds[pkg] = seconds
		}
	}
	return some
}

// sorted returns the tests in order.
func sorted[V any](tests map[Test]V) []Test {
	list := make([]Test, 0, len(tests))
	for test := range tests {
		list = append(list, test)
	}
	slices.SortFunc(list, Test.compare)
	return list
}
