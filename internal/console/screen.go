package console

import (
	"fmt"
	"strconv"
	"strings"
)

// Size tells the size of a terminal in characters. It may change while the program runs.
type Size func() (columns, rows int)

// known replaces the size of a terminal that does not tell it by the smallest common one.
func known(columns, rows int) (int, int) {
	if columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// Screen keeps lines that move at the bottom of a terminal, and lets those that last scroll away above them. It is used
// by one goroutine at a time.
type Screen struct {
	Out  *Printer
	Size Size
	// drawn is how many lines there are to be drawn over.
	drawn int
}

// The control sequences of ECMA-48 that a screen needs.
const (
	cursorUp  = "\x1b[%dA" // that many lines
	eraseLine = "\x1b[K"   // from the cursor to the end of the line
	eraseDown = "\x1b[J"   // from the cursor to the end of the screen
)

// Draw replaces the lines that moved when it was called last by lines that stay and lines that the next call replaces.
// A frame is one write, so that what others write does not get between.
func (sc *Screen) Draw(lasting, moving []string) {
	columns, rows := sc.Size()
	var b strings.Builder
	if sc.drawn > 0 {
		fmt.Fprintf(&b, "\r"+cursorUp, sc.drawn)
	}
	for _, text := range lasting {
		b.WriteString(text + eraseLine + "\n")
	}
	// The cursor cannot go up to lines that scrolled off, so one row less than there are is used.
	lines := make([]string, 0, len(moving))
	room := rows - 1
	for i, text := range moving {
		if len(moving) > room && i >= room-1 {
			if room > 0 {
				lines = append(lines, "and "+strconv.Itoa(len(moving)-i)+" more")
			}
			break
		}
		lines = append(lines, text)
	}
	for _, text := range lines {
		// A line that wraps would be two to go up.
		b.WriteString(Cut(text, columns-1) + eraseLine + "\n")
	}
	if sc.drawn > 0 {
		b.WriteString(eraseDown)
	}
	sc.drawn = len(lines)
	if b.Len() > 0 {
		sc.Out.Printf("%s", b.String())
	}
}
