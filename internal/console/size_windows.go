package console

import (
	"os"

	"golang.org/x/sys/windows"
)

// Of returns the size of the console that f is, or nil if it is none that can be drawn on.
func Of(f *os.File) Size {
	h := windows.Handle(f.Fd())
	var mode uint32
	if windows.GetConsoleMode(h, &mode) != nil {
		return nil
	}
	// Older consoles do not know control sequences and refuse.
	if windows.SetConsoleMode(h, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) != nil {
		return nil
	}
	return func() (int, int) {
		var info windows.ConsoleScreenBufferInfo
		if windows.GetConsoleScreenBufferInfo(h, &info) != nil {
			return known(0, 0)
		}
		w := info.Window
		return known(int(w.Right-w.Left)+1, int(w.Bottom-w.Top)+1)
	}
}
