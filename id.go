package cache

import (
	"crypto/rand"
	"math/big"
)

const (
	// idEntropy bytes, with the top bit set, always have 27 digits in base 36 (spec REC-7).
	idEntropy = 17
	idLength  = 25
)

// newID returns a random record ID: 25 characters of [0-9a-z], opaque to users. The leading digit
// of the number is dropped, since it is not uniformly distributed.
func newID() string {
	var b [idEntropy]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	b[0] |= 0x80
	return new(big.Int).SetBytes(b[:]).Text(36)[1 : idLength+1]
}
