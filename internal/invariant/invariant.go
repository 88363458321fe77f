// Package invariant holds assertions about the library's own logic. Built with the tag
// "invariants" (go test -tags invariants) a violation panics where it happens; otherwise the
// checks cost nothing and the error goes its ordinary way.
package invariant

import "fmt"

// NoError panics, under the build tag, if err is one that only a bug of ours can cause. It
// returns err as it is.
func NoError(err error) error {
	if Enabled && err != nil {
		panic(fmt.Sprintf("invariant violated: %v", err))
	}
	return err
}

// Check panics, under the build tag, if ok is false.
func Check(ok bool, format string, args ...any) {
	if Enabled && !ok {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}
