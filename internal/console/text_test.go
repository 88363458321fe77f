package console

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1049: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB",
		1_500_000_000: "1.5 GB", 1<<63 - 1: "9.2 EB",
	} {
		require.Equal(t, want, Bytes(n))
	}
	for text, want := range map[string]string{
		"plain": "plain", "ü 漢": "ü 漢", "a\nb": "a\nb", "\x1b[2J": `\x1b[2J`, "\xff": `\xff`, "say \"x\"\x00": `say "x"\x00`, "": "",
	} {
		require.Equal(t, want, Printable(text))
	}
	require.Equal(t, `a\nb\r`, Name("a\nb\r"))
}
