package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Item is something that is being worked on, and how far it is.
type Item interface {
	// Line describes it, without what is not printable.
	Line() string
	// Bar pictures how far it is, or is empty.
	Bar() string
	// InFlight tells that something is going on with it, or will go on.
	InFlight() bool
}

// View shows how far the work is. It is called by one goroutine at a time.
type View interface {
	// Changed is called when an item is in another phase than before. inFlight are those
	// that something is going on with, in their order.
	Changed(item Item, inFlight []Item)
	// Show is called at intervals, and in the end.
	Show(inFlight []Item)
	// Interval is how often; 0 means only in the end.
	Interval() time.Duration
}

// Terminal tells the size of a terminal in characters. It may change while the program runs.
type Terminal func() (columns, rows int)

// known replaces the size of a terminal that does not tell it by the smallest common one.
func known(columns, rows int) (int, int) {
	if columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// NewView returns a screen on a terminal, and plain lines if tty is nil.
func NewView(w io.Writer, tty Terminal) View {
	out := NewPrinter(w)
	if tty == nil {
		return plain{out}
	}
	return &screen{out: out, size: tty}
}

// plain writes a line for each change, for logs and pipes.
type plain struct{ out *Printer }

func (p plain) Changed(item Item, _ []Item) {
	p.out.Printf("%s\n", strings.ReplaceAll(item.Line(), "\n", "; "))
}
func (plain) Show([]Item)             {}
func (plain) Interval() time.Duration { return 0 }

// screen keeps the items in flight at the bottom of a terminal, one line each, and lets what is done scroll
// away above them.
type screen struct {
	out  *Printer
	size Terminal
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

func (sc *screen) Interval() time.Duration { return frameInterval }

func (sc *screen) Changed(item Item, inFlight []Item) {
	if item.InFlight() {
		sc.draw(nil, inFlight)
		return
	}
	sc.draw(strings.Split(item.Line(), "\n"), inFlight)
}

func (sc *screen) Show(inFlight []Item) { sc.draw(nil, inFlight) }

// draw replaces what was drawn last by lines that stay and lines that the next draw replaces.
// A frame is one write, so that what others write does not get between.
func (sc *screen) draw(lasting []string, inFlight []Item) {
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
		lines = append(lines, s.Line()+s.Bar())
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
		sc.out.Printf("%s", b.String())
	}
}

// Bar pictures how much of a transfer is done.
func Bar(done, total int64) string {
	const width = 20
	if total <= 0 {
		return ""
	}
	n := int(float64(width) * min(float64(done)/float64(total), 1))
	return "  [" + strings.Repeat("=", n) + strings.Repeat(" ", width-n) + "]"
}

// cut shortens text to a number of characters.
func cut(text string, n int) string {
	if n <= 0 || utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n])
}
