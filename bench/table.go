package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/measure"
)

// table is a heading and rows of cells.
type table struct {
	head  []string
	cells [][]string
	// right tells which columns are aligned to the right.
	right []bool
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

// mainTable is the table of bench.md with what was measured.
func mainTable(lines []line) table {
	t := table{
		head:  []string{"row", "work", "peer", "ours", "ratio", "target", "met"},
		right: []bool{true, false, true, true, true, false, false},
	}
	for _, l := range lines {
		met := yes(l.Met)
		if l.MinRatio == 0 && l.MaxOurs == 0 && len(l.Counts) == 0 {
			met = "-" // there is nothing to meet
		}
		peer, ratio := quantity(l.Peer, l.Unit), measure.Significant(l.Ratio)+"x"
		if l.Peer == 0 {
			peer, ratio = "-", "-"
		}
		t.cells = append(t.cells, []string{
			strconv.Itoa(l.Row), l.Work, peer, quantity(l.Ours, l.Unit), ratio, l.Target, met,
		})
	}
	return t
}

// countTable lists the exact counts.
func countTable(lines []line) table {
	t := table{
		head:  []string{"row", "count", "peer", "ours", "limit", "met"},
		right: []bool{true, false, true, true, true, false},
	}
	for _, l := range lines {
		for _, c := range l.Counts {
			met := "-"
			if c.Limit != nil {
				met = yes(c.Met)
			}
			t.cells = append(t.cells, []string{strconv.Itoa(l.Row), c.What, plain(c.Peer), plain(c.Ours), plain(c.Limit), met})
		}
	}
	return t
}

// widths are the columns' widths in characters.
func (t table) widths() []int {
	w := make([]int, len(t.head))
	for _, cells := range append([][]string{t.head}, t.cells...) {
		for i, c := range cells {
			w[i] = max(w[i], utf8.RuneCountInString(c))
		}
	}
	return w
}

func (t table) pad(cells []string, widths []int) []string {
	out := make([]string, len(cells))
	for i, c := range cells {
		space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
		if t.right[i] {
			out[i] = space + c
		} else {
			out[i] = c + space
		}
	}
	return out
}

// text writes aligned columns.
func (t table) text(b *strings.Builder) {
	w := t.widths()
	for _, cells := range append([][]string{t.head}, t.cells...) {
		fmt.Fprintln(b, strings.TrimRight(strings.Join(t.pad(cells, w), "  "), " "))
	}
}

// markdown writes the same for a document.
func (t table) markdown(b *strings.Builder) {
	w := t.widths()
	rule := make([]string, len(t.head))
	for i := range rule {
		rule[i] = strings.Repeat("-", w[i])
		if t.right[i] {
			rule[i] = rule[i][1:] + ":"
		}
	}
	for i, cells := range append([][]string{t.head}, t.cells...) {
		fmt.Fprintf(b, "| %s |\n", strings.Join(t.pad(cells, w), " | "))
		if i == 0 {
			fmt.Fprintf(b, "| %s |\n", strings.Join(rule, " | "))
		}
	}
}

// writeText prints the tables that have something in them, with an empty line after each.
func writeText(w io.Writer, tables ...table) error {
	var b strings.Builder
	for _, t := range tables {
		if len(t.cells) == 0 {
			continue
		}
		t.text(&b)
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return errors.WithStack(err)
}

// writeJSON writes the lines, as a list, or what else there is to tell.
func writeJSON(path string, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // targets have a ">" in them
	if err := enc.Encode(v); err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.WriteFile(path, b.Bytes(), 0o644))
}
