package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// printer writes lines and remembers the first failure, after which it writes nothing more.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// printable makes text of others, such as file names and answers of a registry, safe to be shown on a terminal:
// what is not printable is escaped.
func printable(text string) string {
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

// entryName is a file's name made safe to be shown, on one line.
func entryName(name string) string {
	return strings.ReplaceAll(printable(name), "\n", `\n`)
}

// bytesText is a count of bytes for people, in decimal units.
func bytesText(n int64) string {
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

// short is enough of a valid digest to tell a layer from the others.
func short(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(len(hex), 12)]
}
