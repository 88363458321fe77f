package subset

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func names(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("TestNumber%d/native", i))
	}
	return names
}

// Every test comes in some part, parts are as large as they were asked to be, and a seed says which.
func TestOf(t *testing.T) {
	all := names(100)
	seen := map[string]bool{}
	for seed := range 60 {
		p := part{8, fmt.Sprint(seed)}
		got := p.of(all)
		require.Len(t, got, 13)
		require.Subset(t, all, got)
		require.Equal(t, got, p.of(all))
		for _, name := range got {
			seen[name] = true
		}
	}
	require.Len(t, seen, len(all))
	require.Equal(t, all, part{n: 1}.of(all))
	require.Equal(t, all[:1], part{8, "seed"}.of(all[:1]))
	require.Empty(t, part{8, "seed"}.of(nil))
}

// As many are skipped as are to be, about, with any seed.
func TestShare(t *testing.T) {
	for seed := range 20 {
		p, n := part{4, fmt.Sprint("commit", seed)}, 0
		for _, name := range names(1000) {
			if p.hash(name)%p.n == 0 {
				n++
			}
		}
		require.InDelta(t, 250, n, 60)
	}
}

func TestParse(t *testing.T) {
	p, err := parse("")
	require.NoError(t, err)
	require.Equal(t, part{n: 1}, p)
	p, err = parse("4/a/b")
	require.NoError(t, err)
	require.Equal(t, part{4, "a/b"}, p)
	require.Equal(t, "4/a/b", p.String())
	for _, text := range []string{"4", "0/a", "-1/a", "/a", "x/a"} {
		_, err := parse(text)
		require.ErrorContains(t, err, Env)
	}
}

// named is a test of any name.
type named struct {
	testing.TB
	name    string
	skipped string
}

func (n *named) Name() string { return n.name }

func (n *named) Skipf(format string, args ...any) { n.skipped = fmt.Sprintf(format, args...) }

// A test is skipped or not as its name says, and the reason tells the part.
func TestSkip(t *testing.T) {
	for text, want := range map[string]int{"": 0, "1/a": 0, "3/a": 200} {
		t.Setenv(Env, text)
		skipped := 0
		for _, name := range names(300) {
			n := named{TB: t, name: name}
			Skip(&n)
			if n.skipped != "" {
				require.Equal(t, "not in the subset 3/a of LAYERCACHE_SUBSET", n.skipped)
				skipped++
			}
		}
		require.InDelta(t, want, skipped, float64(want)/6, text)
	}
	t.Setenv(Env, "3/a")
	require.Len(t, Of(t, names(9)), 3)
}
