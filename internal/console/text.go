package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	digest "github.com/opencontainers/go-digest"
)

// Printer writes lines and remembers the first failure, after which it writes nothing more.
type Printer struct {
	W   io.Writer
	Err error
}

// Printf writes as fmt.Fprintf does.
func (p *Printer) Printf(format string, args ...any) {
	if p.Err == nil {
		_, p.Err = fmt.Fprintf(p.W, format, args...)
	}
}

// Printable makes text of others, such as file names and answers of a registry, safe to be shown on a terminal:
// what is not printable is escaped.
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

// Name is text made safe to be shown, on one line.
func Name(text string) string {
	return strings.ReplaceAll(Printable(text), "\n", `\n`)
}

// Bytes is a count of bytes for people, in decimal units.
func Bytes(n int64) string {
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

// Cut shortens text to a number of characters.
func Cut(text string, n int) string {
	if n <= 0 || utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n])
}

// Short is enough of a valid digest to tell a layer from the others.
func Short(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(len(hex), 12)]
}
