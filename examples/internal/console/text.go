// Package console is what the examples write to terminals and pipes: lines, text of others made safe, and how far work is.
package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// Printer writes lines and remembers the first failure, after which it writes nothing more.
type Printer struct {
	w   io.Writer
	err error
}

// NewPrinter returns a printer that writes to w.
func NewPrinter(w io.Writer) *Printer { return &Printer{w: w} }

// Err is the first failure.
func (p *Printer) Err() error { return p.err }

// Printf writes, unless writing failed before.
func (p *Printer) Printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// Printable makes text of others, such as file names and answers of a registry, safe to be shown on a terminal:
// what is not Printable is escaped.
func Printable(text string) string {
	if utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) < 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		quoted := strconv.Quote(line)
		lines[i] = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	}
	return strings.Join(lines, "\n")
}

// EntryName is a file's name made safe to be shown, on one line.
func EntryName(name string) string {
	return strings.ReplaceAll(Printable(name), "\n", `\n`)
}

// BytesText is a count of bytes for people, in decimal units.
func BytesText(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n), -1
	for value >= 999.95 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + units[unit:unit+1] + "B"
}

// Short is enough of a valid digest to tell a layer from the others.
func Short(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(len(hex), 12)]
}
