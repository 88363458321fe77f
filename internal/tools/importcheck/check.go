package main

import (
	"fmt"
	"strings"
)

// match compares an import path with a pattern; `.` and `./` stand for the module.
func match(module, pattern, importPath string) bool {
	if pattern == "." {
		pattern = module
	} else if rest, ok := strings.CutPrefix(pattern, "./"); ok {
		pattern = module + "/" + rest
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return importPath == base || strings.HasPrefix(importPath, base+"/")
	}
	return importPath == pattern
}

func matchAny(module string, patterns []string, importPath string) bool {
	for _, p := range patterns {
		if match(module, p, importPath) {
			return true
		}
	}
	return false
}

// isStd tells a standard library path by its first element, which has no dot there.
func isStd(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

// check returns one message per import that breaks a rule, and one per rule that binds no package of the tree.
func check(s *source, rules []rule) []string {
	var bad []string
	for _, r := range rules {
		for _, from := range r.from {
			if !bindsSomething(s, from) {
				bad = append(bad, fmt.Sprintf("rule %q binds %s, and there is no such package: the rule checks nothing", r.name, from))
			}
		}
		for _, im := range s.imports {
			if r.breaks(s.module, im) {
				bad = append(bad, fmt.Sprintf("%s: %s must not import %s (%s): %s", im.pos, im.pkg, im.path, r.name, r.reason))
			}
		}
	}
	return bad
}

func bindsSomething(s *source, pattern string) bool {
	for pkg := range s.packages {
		if match(s.module, pattern, pkg) {
			return true
		}
	}
	return false
}

func (r rule) breaks(module string, im importLine) bool {
	switch {
	case im.test && !r.tests,
		!matchAny(module, r.from, im.pkg),
		matchAny(module, r.except, im.pkg),
		matchAny(module, r.allow, im.path):
		return false
	case r.std && !isStd(im.path):
		return true
	}
	return matchAny(module, r.forbid, im.path)
}

// checkModules returns the required modules that the root go.mod must not name.
func checkModules(required, heavy []string) []string {
	var bad []string
	for _, m := range required {
		if matchAny("", heavy, m) {
			bad = append(bad, "go.mod requires "+m+": registries, daemons, BuildKit and linters belong into nested modules")
		}
	}
	if len(required) == 0 {
		bad = append(bad, "go.mod requires nothing: the check of its modules saw nothing")
	}
	return bad
}

// checkLimit compares an import graph, given as its non-stdlib packages, with its ceiling.
func checkLimit(module string, l limit, graph []string) []string {
	var bad []string
	if len(graph) > l.packages {
		bad = append(bad, fmt.Sprintf("importing %s drags in %d packages, more than %d (bench.md row 19): %s", l.pkg, len(graph), l.packages, strings.Join(graph, " ")))
	}
	if len(graph) == 0 {
		bad = append(bad, "import graph of "+l.pkg+" is empty: nothing was checked")
	}
	for _, p := range graph {
		if matchAny(module, l.forbid, p) {
			bad = append(bad, fmt.Sprintf("importing %s drags in %s through others; `go list -deps` shows the way", l.pkg, p))
		}
	}
	return bad
}
