package testutil

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadable(t *testing.T) {
	looks := 0
	look := func(unreadable int) func() int {
		looks = 0
		return func() int {
			if looks++; looks <= unreadable {
				panic("Failed to parse stack trace")
			}
			return looks
		}
	}
	require.Equal(t, 1, readable(look(0)))
	require.Equal(t, 4, readable(look(3)))
	require.Panics(t, func() { readable(look(10)) })
	require.Equal(t, 10, looks)
}
