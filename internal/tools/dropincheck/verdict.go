package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/tools/listfile"
)

// known is one line of docs/dropin-missing.txt: an identifier, the issue that brings it, and what for.
type known struct {
	line       int
	issue, why string
}

var issueNumber = regexp.MustCompile(`^#?[0-9]+$`)

// readKnown reads the list of known gaps. It may be empty: then nothing may be missing.
func readKnown(name string) (map[string]known, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Wrap(err, "known gaps")
	}
	defer f.Close()
	entries, err := listfile.Read(f)
	if err != nil {
		return nil, errors.Wrap(err, name)
	}
	gaps := map[string]known{}
	for _, e := range entries {
		if len(e.Fields) < 3 || !issueNumber.MatchString(e.Fields[1]) {
			return nil, errors.Errorf("%s:%d: want `IDENTIFIER ISSUE WHY`", name, e.Line)
		}
		if _, twice := gaps[e.Fields[0]]; twice {
			return nil, errors.Errorf("%s:%d: %s stands here twice", name, e.Line, e.Fields[0])
		}
		gaps[e.Fields[0]] = known{line: e.Line, issue: e.Fields[1], why: strings.Join(e.Fields[2:], " ")}
	}
	return gaps, nil
}

// judge compares what is missing with what is known to be missing. compiles is the verdict of check.sh itself.
func judge(out io.Writer, findings []finding, gaps map[string]known, compiles bool) []string {
	var bad []string
	for _, f := range findings {
		if f.id == "" {
			bad = append(bad, "unexpected: "+f.msg)
		}
	}
	names, users := ids(findings)
	for _, id := range names {
		gap, ok := gaps[id]
		if !ok {
			bad = append(bad, fmt.Sprintf("missing and not on the list: %s, needed by %s", id, strings.Join(users[id], ", ")))
			continue
		}
		fmt.Fprintf(out, "dropincheck: %s comes with issue %s (%s); needed by %s\n", id, gap.issue, gap.why, strings.Join(users[id], ", "))
	}
	for id, gap := range gaps {
		if users[id] == nil {
			bad = append(bad, fmt.Sprintf("stale entry, line %d: %s is no longer missing", gap.line, id))
		}
	}
	switch {
	case compiles && len(findings) > 0:
		bad = append(bad, "check.sh says it compiles, and the type checker disagrees")
	case !compiles && len(findings) == 0:
		bad = append(bad, "check.sh fails for a reason that the type checker does not see; its output stands above")
	}
	return bad
}
