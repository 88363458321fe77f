//go:build unix

package console

import (
	"os"

	"golang.org/x/sys/unix"
)

// Of returns the size of the terminal that f is, or nil if it is none that can be drawn on.
func Of(f *os.File) Size {
	size := func() (columns, rows int, ok bool) {
		ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return 0, 0, false
		}
		return int(ws.Col), int(ws.Row), true
	}
	if _, _, ok := size(); !ok || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return func() (int, int) {
		columns, rows, _ := size()
		return known(columns, rows)
	}
}
