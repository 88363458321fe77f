// Package listfile reads the hand-kept lists of the repository's checks: one entry a line, `#` starts a comment.
package listfile

import (
	"bufio"
	"io"
	"os"
	"strings"

	"github.com/pkg/errors"
)

// Entry is one line that holds something.
type Entry struct {
	Line   int      // line number, from 1, for messages
	Fields []string // the line without its comment, split at white space; never empty
}

// Read parses a list. A `#` starts a comment at the beginning of a line or after white space, so that it may be part of an identifier.
func Read(r io.Reader) ([]Entry, error) {
	var entries []Entry
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		var fields []string
		for _, f := range strings.Fields(sc.Text()) {
			if strings.HasPrefix(f, "#") {
				break
			}
			fields = append(fields, f)
		}
		if len(fields) > 0 {
			entries = append(entries, Entry{Line: n, Fields: fields})
		}
	}
	return entries, errors.Wrap(sc.Err(), "read list")
}

// ReadFile is Read on a file. A list without any entry is an error: a check that has nothing to check must not pass.
func ReadFile(name string) ([]Entry, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Wrap(err, "open list")
	}
	defer f.Close()
	entries, err := Read(f)
	if err != nil {
		return nil, errors.Wrap(err, name)
	}
	if len(entries) == 0 {
		return nil, errors.Errorf("%s: the list is empty", name)
	}
	return entries, nil
}
