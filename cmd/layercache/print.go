package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
)

// inspect opens a directory for looking, and says what is remarkable about that.
func inspect(ctx context.Context, dir string, s *streams) (*local.Inspection, error) {
	i, err := local.Inspect(ctx, dir, local.InspectOptions{})
	if err != nil {
		return nil, err
	}
	if r := i.Salvaged; r != nil {
		s.err.Printf("layercache: %s is damaged: %d records can be read, %d are lost, and in %d places others may be; the next process to open the cache saves what can be read\n",
			console.Name(r.Path), r.Records, len(r.Lost), r.Gaps)
	}
	return i, nil
}

// busy shows on a terminal that work is under way, until stop is called.
func (s *streams) busy(what string) (stop func()) {
	if s.tty == nil {
		return func() {}
	}
	screen := &console.Screen{Out: s.err, Size: s.tty}
	screen.Draw(nil, []string{what + " ..."})
	return sync.OnceFunc(func() { screen.Draw(nil, nil) })
}

// printColumns prints rows as a table; the last column is as long as it is.
func printColumns(out *console.Printer, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		out.Printf("%s\n", strings.TrimRight(b.String(), " "))
	}
}

func printJSON(out *console.Printer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return errors.WithStack(err)
	}
	out.Printf("%s\n", text)
	return out.Err
}

func countText(n int) string { return strconv.Itoa(n) }

// recordsText is a number of records.
func recordsText(n int) string {
	if n == 1 {
		return "1 record"
	}
	return countText(n) + " records"
}

// timeText is a moment in the one form that sorts and that everybody reads alike.
func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
