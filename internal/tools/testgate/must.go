package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/tools/listfile"
)

// rule is one line of a must-run list:
//
//	./metadata/...  Test.*            every matching test must run and pass; at least one must match
//	- ./snapshot    TestOnPlan9 ...   an exception: these may skip; the rest of the line is the reason
type rule struct {
	line    int
	allow   bool
	pattern string
	test    *regexp.Regexp
	text    string
}

func parseRules(entries []listfile.Entry) ([]rule, error) {
	var rules []rule
	for _, e := range entries {
		f, r := e.Fields, rule{line: e.Line}
		if f[0] == "-" {
			r.allow = true
			if f = f[1:]; len(f) < 3 {
				return nil, errors.Errorf("line %d: an exception is `- PACKAGE TEST REASON`", e.Line)
			}
		} else if len(f) != 2 {
			return nil, errors.Errorf("line %d: want `PACKAGE TEST`, have %q", e.Line, f)
		}
		if f[0] != "." && !strings.HasPrefix(f[0], "./") {
			return nil, errors.Errorf("line %d: package %q must start with ./", e.Line, f[0])
		}
		re, err := regexp.Compile("^(?:" + f[1] + ")$")
		if err != nil {
			return nil, errors.Wrapf(err, "line %d", e.Line)
		}
		r.pattern, r.test, r.text = f[0], re, f[0]+" "+f[1]
		rules = append(rules, r)
	}
	return rules, nil
}

// matches tells whether the rule speaks of a test. A rule for a test speaks of its subtests, too.
func (r rule) matches(module string, key testKey) bool {
	if !matchPackage(module, r.pattern, key.pkg) {
		return false
	}
	top, _, _ := strings.Cut(key.test, "/")
	return r.test.MatchString(top) || r.test.MatchString(key.test)
}

func matchPackage(module, pattern, pkg string) bool {
	rel := strings.TrimPrefix(strings.TrimPrefix(pattern, "."), "/")
	if base, ok := strings.CutSuffix(rel, "..."); ok {
		full := strings.TrimSuffix(module+"/"+base, "/")
		return pkg == full || strings.HasPrefix(pkg, full+"/")
	}
	return pkg == strings.TrimSuffix(module+"/"+rel, "/")
}

// checkMust says which rules the results break. Failures are not repeated here.
func checkMust(module string, rules []rule, results map[testKey]string) []string {
	allowed := func(key testKey) bool {
		for _, r := range rules {
			if r.allow && r.matches(module, key) {
				return true
			}
		}
		return false
	}
	var bad []string
	skipped := map[testKey]bool{}
	for _, r := range rules {
		if r.allow {
			continue
		}
		found := 0
		for key, how := range results {
			if how == leftOut && matchPackage(module, r.pattern, key.pkg) {
				found++ // the rule may be about its subtests, of which nothing is known
			}
			if !r.matches(module, key) {
				continue
			}
			found++
			if how == "skip" && !skipped[key] && !allowed(key) {
				skipped[key] = true
				bad = append(bad, fmt.Sprintf("must run here, but skipped: %s.%s (list line %d)", key.pkg, key.test, r.line))
			}
		}
		if found == 0 {
			bad = append(bad, fmt.Sprintf("must run, but no such test ran: %s (list line %d)", r.text, r.line))
		}
	}
	return bad
}
