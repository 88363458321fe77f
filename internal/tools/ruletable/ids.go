package main

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// highest is the last number of each kind of rule in the specification: a higher one in a test is a slip of the pen.
var highest = map[string]int{
	"API": 3, "APP": 10, "BLOB": 11, "CHAIN": 7, "COMP": 6, "DESC": 6, "DIF": 7, "DU": 8, "EXT": 13, "FLT": 2, "INIT": 12, "IRC": 2,
	"LEASE": 8, "LM": 3, "LOCK": 4, "META": 15, "MGR": 42, "MNT": 8, "MRG": 7, "MV": 4, "OLD": 3, "OPT": 5, "OVL": 6, "PRN": 19,
	"PULL": 3, "REC": 10, "REF": 21, "REM": 2, "RMT": 9, "SHM": 5, "SIZE": 6, "SNP": 7, "VAR": 5, "WALK": 3, "WIN": 1,
	"S":     35, // scenarios
	"Q":     81, // quirks of the reference
	"fault": 44,
}

var (
	ruleID  = regexp.MustCompile(`\b(` + prefixes() + `)-(\d+)([a-z]?)(?:\.\.(?:([A-Z]+)-)?(\d+))?\b`)
	quirkID = regexp.MustCompile(`\bQ(\d\d)(?:\.\.Q?(\d\d))?\b`)
	faultID = regexp.MustCompile(`\b[Ff]aults?[ -](\d+(?:(?:, | and |\.\.)\d+)*)`)
	number  = regexp.MustCompile(`(\d+)(?:\.\.(\d+))?`)
)

func prefixes() string {
	var list []string
	for p := range highest {
		if p != "Q" && p != "fault" {
			list = append(list, p)
		}
	}
	sort.Strings(list)
	return strings.Join(list, "|")
}

// findIDs returns the rules that a text names: `META-3`, `META-1..4`, `REF-8a`, `Q06`, `S-34`, `fault 24`, `faults 24, 26 and 33`.
func findIDs(text string) ([]string, error) {
	var ids []string
	add := func(prefix, format string, from, to int) error {
		if from < 1 || to < from || to > highest[prefix] {
			return errors.Errorf("there is no rule "+format+" to "+format, from, to)
		}
		for n := from; n <= to; n++ {
			ids = append(ids, fmt.Sprintf(format, n))
		}
		return nil
	}
	for _, m := range ruleID.FindAllStringSubmatch(text, -1) {
		if m[4] != "" && m[4] != m[1] {
			return nil, errors.Errorf("a range from %s to %s", m[1], m[4])
		}
		from, to := span(m[2], m[5])
		if err := add(m[1], m[1]+"-%d"+m[3], from, to); err != nil {
			return nil, err
		}
	}
	for _, m := range quirkID.FindAllStringSubmatch(text, -1) {
		from, to := span(m[1], m[2])
		if err := add("Q", "Q%02d", from, to); err != nil {
			return nil, err
		}
	}
	for _, list := range faultID.FindAllStringSubmatch(text, -1) {
		for _, m := range number.FindAllStringSubmatch(list[1], -1) {
			from, to := span(m[1], m[2])
			if err := add("fault", "fault %d", from, to); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}

// span turns the digits of a range into numbers; without an end it is the start alone. Digits too many become an impossible number.
func span(from, to string) (int, int) {
	a, errA := strconv.Atoi(from)
	if errA != nil {
		return 0, 0
	}
	if to == "" {
		return a, a
	}
	b, errB := strconv.Atoi(to)
	if errB != nil {
		return 0, 0
	}
	return a, b
}

// less orders ids as the table shows them: specification rules by name and number, then quirks, scenarios and faults.
func less(a, b string) bool {
	ga, na, ra := sortKey(a)
	gb, nb, rb := sortKey(b)
	if ga != gb {
		return ga < gb
	}
	if na != nb {
		return na < nb
	}
	return ra < rb
}

func sortKey(id string) (group string, n int, rest string) {
	i := strings.IndexAny(id, "0123456789")
	group, rest = id[:i], id[i:]
	n, _ = span(strings.TrimRight(rest, "abcdefghijklmnopqrstuvwxyz"), "")
	order := map[string]string{"Q": "1", "S-": "2", "fault ": "3"}
	if o, special := order[group]; special {
		return o, n, rest
	}
	return "0" + group, n, rest
}
