package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// view shows how far the layers are. It is called by one goroutine at a time.
type view interface {
	// changed is called when a layer is in another phase than before. inFlight are those
	// that something is going on with, bottom first.
	changed(s status, inFlight []status)
	// show is called at intervals, and in the end.
	show(inFlight []status)
	// interval is how often; 0 means only in the end.
	interval() time.Duration
}

// terminal tells the size of a terminal in characters. It may change while the program runs.
type terminal func() (columns, rows int)

// known replaces the size of a terminal that does not tell it by the smallest common one.
func known(columns, rows int) (int, int) {
	if columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// newView returns a screen on a terminal, and plain lines if tty is nil.
func newView(w io.Writer, tty terminal) view {
	out := &printer{w: w}
	if tty == nil {
		return plain{out}
	}
	return &screen{out: out, size: tty}
}

// line describes a layer.
func (s status) line() string {
	text := "layer " + s.label + "  " + short(s.digest) + "  " + s.phase.String()
	switch s.phase {
	case pulling:
		text += "  " + bytesText(s.read) + " of " + bytesText(s.size)
	case pulled, extracting, extracted:
		text += "  " + bytesText(s.size)
	case failed:
		text += ": " + s.err.Error()
	}
	return printable(text)
}

// plain writes a line for each change, for logs and pipes.
type plain struct{ out *printer }

func (p plain) changed(s status, _ []status) {
	p.out.printf("%s\n", strings.ReplaceAll(s.line(), "\n", "; "))
}
func (plain) show([]status)           {}
func (plain) interval() time.Duration { return 0 }

// screen keeps the layers in flight at the bottom of a terminal, one line each, and lets what is done scroll
// away above them.
type screen struct {
	out  *printer
	size terminal
	// drawn is how many lines there are to be drawn over.
	drawn int
}

// The control sequences of ECMA-48 that a screen needs.
const (
	cursorUp  = "\x1b[%dA" // that many lines
	eraseLine = "\x1b[K"   // from the cursor to the end of the line
	eraseDown = "\x1b[J"   // from the cursor to the end of the screen
)

const frameInterval = 100 * time.Millisecond

func (sc *screen) interval() time.Duration { return frameInterval }

func (sc *screen) changed(s status, inFlight []status) {
	if s.phase.inFlight() {
		sc.draw(nil, inFlight)
		return
	}
	sc.draw(strings.Split(s.line(), "\n"), inFlight)
}

func (sc *screen) show(inFlight []status) { sc.draw(nil, inFlight) }

// draw replaces what was drawn last by lines that stay and lines that the next draw replaces.
// A frame is one write, so that what others write does not get between.
func (sc *screen) draw(lasting []string, inFlight []status) {
	columns, rows := sc.size()
	var b strings.Builder
	if sc.drawn > 0 {
		fmt.Fprintf(&b, "\r"+cursorUp, sc.drawn)
	}
	for _, text := range lasting {
		b.WriteString(text + eraseLine + "\n")
	}
	// The cursor cannot go up to lines that scrolled off, so one row less than there are is used.
	lines := make([]string, 0, len(inFlight))
	room := rows - 1
	for i, s := range inFlight {
		if len(inFlight) > room && i >= room-1 {
			if room > 0 {
				lines = append(lines, "and "+strconv.Itoa(len(inFlight)-i)+" more")
			}
			break
		}
		lines = append(lines, s.line()+s.bar())
	}
	for _, text := range lines {
		// A line that wraps would be two to go up.
		b.WriteString(cut(text, columns-1) + eraseLine + "\n")
	}
	if sc.drawn > 0 {
		b.WriteString(eraseDown)
	}
	sc.drawn = len(lines)
	if b.Len() > 0 {
		sc.out.printf("%s", b.String())
	}
}

// bar pictures how much of a transfer is done.
func (s status) bar() string {
	const width = 20
	if s.phase != pulling || s.size <= 0 {
		return ""
	}
	done := int(float64(width) * min(float64(s.read)/float64(s.size), 1))
	return "  [" + strings.Repeat("=", done) + strings.Repeat(" ", width-done) + "]"
}

// cut shortens text to a number of characters.
func cut(text string, n int) string {
	if n <= 0 || utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n])
}
