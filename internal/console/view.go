package console

import (
	"io"
	"strings"
	"time"
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

// NewView returns a screen on a terminal, and plain lines if tty is nil.
func NewView(w io.Writer, tty Size) View {
	out := &Printer{W: w}
	if tty == nil {
		return plain{out}
	}
	return &screen{Screen{Out: out, Size: tty}}
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
type screen struct{ Screen }

const frameInterval = 100 * time.Millisecond

func (sc *screen) Interval() time.Duration { return frameInterval }

func (sc *screen) Changed(item Item, inFlight []Item) {
	if item.InFlight() {
		sc.Show(inFlight)
		return
	}
	sc.Draw(strings.Split(item.Line(), "\n"), moving(inFlight))
}

func (sc *screen) Show(inFlight []Item) { sc.Draw(nil, moving(inFlight)) }

func moving(inFlight []Item) []string {
	lines := make([]string, 0, len(inFlight))
	for _, item := range inFlight {
		lines = append(lines, item.Line()+item.Bar())
	}
	return lines
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
