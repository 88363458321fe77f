// Package subset runs a part of the tests that take long. `go test` and .ci/full run all of them; .ci/run, which has twenty minutes, asks
// for one in so many, and for others at each commit.
package subset

import (
	"cmp"
	"hash/fnv"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pkg/errors"
)

// Env names the environment variable that asks for a part, as N/SEED: one test in N, a number above 0, chosen by SEED, which is any text. Unset or empty
// asks for all.
const Env = "LAYERCACHE_SUBSET"

// Marker begins the reason of a test that was skipped as it is not in the part. It is how internal/tools/testgate tells such a test
// from one that lacks something.
const Marker = "not in the subset "

// Skip skips a test that is not in the part.
func Skip(t testing.TB) {
	t.Helper()
	p, err := parse(os.Getenv(Env))
	if err != nil {
		t.Fatal(err)
	}
	if p.n > 1 && p.hash(t.Name())%p.n != 0 {
		t.Skipf("%s%s of %s", Marker, p, Env)
	}
}

// Of returns the names that are in the part, in their order: one in N of them, rounded up, so that there is always one.
func Of(t testing.TB, names []string) []string {
	t.Helper()
	p, err := parse(os.Getenv(Env))
	if err != nil {
		t.Fatal(err)
	}
	if p.n > 1 {
		t.Logf("the subset %s of %s", p, Env)
	}
	return p.of(names)
}

// part is what Env asks for.
type part struct {
	n    uint64
	seed string
}

func (p part) String() string { return strconv.FormatUint(p.n, 10) + "/" + p.seed }

func parse(text string) (part, error) {
	if text == "" {
		return part{n: 1}, nil
	}
	count, seed, ok := strings.Cut(text, "/")
	n, err := strconv.ParseUint(count, 10, 16)
	if !ok || err != nil || n == 0 {
		return part{}, errors.Errorf("%s is %q, want N/SEED with a number N above 0", Env, text)
	}
	return part{n, seed}, nil
}

func (p part) hash(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.seed + "\x00" + name)) // cannot fail
	// The low bits of FNV alone hardly depend on all that was written.
	sum := h.Sum64()
	sum ^= sum >> 32
	sum *= 0x9e3779b97f4a7c15
	return sum >> 16
}

func (p part) of(names []string) []string {
	byHash := slices.SortedFunc(slices.Values(names), func(a, b string) int { return cmp.Compare(p.hash(a), p.hash(b)) })
	chosen := byHash[:(uint64(len(names))+p.n-1)/p.n]
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(chosen, name) })
}
