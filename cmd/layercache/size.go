package main

import (
	"math"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// size is a flag for an amount of space in bytes.
type size int64

// units are the factors that a size may be given with.
var units = func() map[string]float64 {
	all := map[string]float64{"": 1, "B": 1}
	decimal, binary := 1.0, 1.0
	for _, prefix := range []string{"K", "M", "G", "T", "P", "E"} {
		decimal, binary = decimal*1000, binary*1024
		all[prefix], all[prefix+"B"], all[prefix+"IB"] = decimal, decimal, binary
	}
	return all
}()

// String implements flag.Value.
func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

// Set implements flag.Value. A number alone is bytes; the case of a unit does not matter.
func (s *size) Set(text string) error {
	digits := strings.TrimRightFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	factor, ok := units[strings.ToUpper(strings.TrimSpace(text[len(digits):]))]
	if !ok {
		return errors.New("not a size such as 10GB, 512MiB or 4096")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || factor != 1 { // a float would not be exact
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil || strings.ContainsAny(digits, "eExX_") {
			return errors.New("not a size such as 10GB, 512MiB or 4096")
		}
		if f *= factor; f >= math.MaxInt64 {
			return errors.New("too large")
		}
		n = int64(f)
	}
	if n < 0 {
		return errors.New("negative")
	}
	*s = size(n)
	return nil
}
