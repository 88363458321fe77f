package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/pkg/errors"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	ImportPath, FailedBuild       string
	Elapsed                       float64
}

const (
	// subsetEnv asks tests for a part of them, and subsetMarker begins the reason of one that is not in it; both are testutil/subset's.
	subsetEnv    = "LAYERCACHE_SUBSET"
	subsetMarker = "not in the subset "
	leftOut      = "left out"
)

type testKey struct{ pkg, test string }

// gate follows one stream of events and remembers how every test ended.
type gate struct {
	out      io.Writer
	subset   bool               // tests that were left out of a subset are not called skipped, and are not printed
	results  map[testKey]string // "pass", "fail", "skip" or leftOut
	output   map[testKey][]string
	packages map[string]string // how the package ended: "pass", "fail", "skip" (no test files)
	broken   []string          // what went wrong outside of tests
}

func newGate(out io.Writer) *gate {
	return &gate{out: out, subset: os.Getenv(subsetEnv) != "", results: map[testKey]string{}, output: map[testKey][]string{}, packages: map[string]string{}}
}

// read consumes the stream and prints what plain `go test` would have printed, plus every skip.
func (g *gate) read(r io.Reader) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil || e.Action == "" {
			g.broken = append(g.broken, "not a test event: "+sc.Text())
			fmt.Fprintln(g.out, sc.Text())
			continue
		}
		g.handle(e)
	}
	return errors.Wrap(sc.Err(), "read test events")
}

func (g *gate) handle(e event) {
	key := testKey{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(g.out, e.Output)
	case "build-fail":
		g.broken = append(g.broken, "does not build: "+e.ImportPath)
	case "output":
		g.output[key] = append(g.output[key], e.Output)
	case "run":
		// A test that started and never ended (panic, os.Exit, timeout) must not look like one that never existed.
		g.results[key] = "fail"
	case "pass", "fail", "skip":
		if e.Test == "" {
			g.endPackage(e)
			return
		}
		g.results[key] = e.Action
		if e.Action == "skip" && g.subset && strings.Contains(strings.Join(g.output[key], ""), subsetMarker) {
			g.results[key] = leftOut
		} else if e.Action != "pass" {
			fmt.Fprint(g.out, indentedOutput(g.output[key]))
		}
		delete(g.output, key)
	}
}

func (g *gate) endPackage(e event) {
	g.packages[e.Package] = e.Action
	for key, lines := range g.output {
		if key.pkg == e.Package && key.test != "" { // cut off in the middle
			fmt.Fprint(g.out, indentedOutput(lines))
			delete(g.output, key)
		}
	}
	key := testKey{pkg: e.Package}
	printed := false
	for _, line := range g.output[key] {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		switch strings.TrimSpace(word) {
		case "PASS":
			continue
		case "ok", "FAIL", "?":
			printed = strings.Contains(line, e.Package) || printed
		}
		fmt.Fprint(g.out, line)
	}
	delete(g.output, key)
	if !printed { // test2json on a bare test binary prints no such line
		word := map[string]string{"pass": "ok  ", "fail": "FAIL", "skip": "?   "}[e.Action]
		fmt.Fprintf(g.out, "%s\t%s\t%.3fs\n", word, e.Package, e.Elapsed)
	}
}

// indentedOutput is a test's output without the `=== RUN` noise that -json implies.
func indentedOutput(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		if !strings.HasPrefix(l, "=== ") {
			b.WriteString(l)
		}
	}
	return b.String()
}

// problems lists what must fail the run, sorted; nil when all is well.
func (g *gate) problems(module string, must []rule) []string {
	bad := append([]string(nil), g.broken...)
	passed := 0
	for key, how := range g.results {
		switch how {
		case "pass":
			passed++
		case "fail":
			bad = append(bad, fmt.Sprintf("failed: %s.%s", key.pkg, key.test))
		}
	}
	for pkg, how := range g.packages {
		if how == "fail" {
			bad = append(bad, "failed: package "+pkg)
		}
	}
	if passed == 0 {
		bad = append(bad, "no test passed: there was nothing to check")
	}
	bad = append(bad, checkMust(module, must, g.results)...)
	sort.Strings(bad)
	return bad
}

// summary is the one line that closes a run.
func (g *gate) summary() string {
	count := map[string]int{}
	for _, how := range g.results {
		count[how]++
	}
	line := fmt.Sprintf("tests: %d passed, %d failed, %d skipped in %d packages", count["pass"], count["fail"], count["skip"], len(g.packages))
	if count[leftOut] > 0 {
		line += fmt.Sprintf("; %d not in the subset %s", count[leftOut], os.Getenv(subsetEnv))
	}
	return line
}
