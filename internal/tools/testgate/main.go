// Command testgate reads `go test -json` on stdin, prints what `go test` would print, and fails when a test failed, when a
// test of the must-run list was skipped or is missing, or when there was nothing to run at all. Tests that are not in the subset that
// LAYERCACHE_SUBSET asks for (package testutil/subset) count as neither.
//
//	go test -json ./... | go run ./internal/tools/testgate -must .ci/must-run.txt
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/layercache/cache/internal/tools/listfile"
)

func main() {
	must := flag.String("must", "", "list of tests that must run and pass; empty: none beyond `go test`'s own verdict")
	module := flag.String("module", "github.com/layercache/cache", "module that the list's ./ stands for")
	flag.Parse()
	os.Exit(run(os.Stdin, os.Stdout, os.Stderr, *must, *module))
}

func run(in io.Reader, out, errOut io.Writer, must, module string) int {
	var rules []rule
	if must != "" {
		entries, err := listfile.ReadFile(must)
		if err == nil {
			rules, err = parseRules(entries)
		}
		if err != nil {
			fmt.Fprintln(errOut, "testgate:", err)
			return 2
		}
	}
	g := newGate(out)
	if err := g.read(in); err != nil {
		fmt.Fprintln(errOut, "testgate:", err)
		return 2
	}
	fmt.Fprintln(out, g.summary())
	bad := g.problems(module, rules)
	for _, b := range bad {
		fmt.Fprintln(errOut, "testgate:", b)
	}
	if len(bad) > 0 {
		return 1
	}
	return 0
}
