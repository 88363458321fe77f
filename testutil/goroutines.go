package testutil

import "github.com/pkg/errors"

// readable has goleak look at all goroutines, and look again where it cannot read what the runtime prints, which it panics over: Go 1.26 has
// one line in place of the stack of a goroutine that is just leaving a system call ("stack unavailable"). By the next look it has left.
func readable[T any](look func() T) T {
	const looks = 10
	for i := 1; ; i++ {
		found, err := try(look)
		if err == nil {
			return found
		}
		if i == looks {
			panic(err)
		}
	}
}

func try[T any](look func() T) (found T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.Errorf("%v", r)
		}
	}()
	return look(), nil
}
