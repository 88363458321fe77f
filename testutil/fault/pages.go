package fault

import (
	"bytes"
	"os"

	"github.com/pkg/errors"
)

// ClearPages zeroes the pages of a closed bbolt database in which a text stands, as a failing disk may, and returns how many they are. The
// database has the system's page size, as bbolt makes it.
func ClearPages(path, text string) (n int, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, errors.WithStack(err)
	}
	for rest, size := data, os.Getpagesize(); len(rest) > 0; {
		page := rest[:min(size, len(rest))]
		rest = rest[len(page):]
		if bytes.Contains(page, []byte(text)) {
			clear(page)
			n++
		}
	}
	return n, errors.WithStack(os.WriteFile(path, data, 0o600))
}
