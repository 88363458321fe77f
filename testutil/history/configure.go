package history

import (
	"flag"
	"os"
	"strconv"
	"testing"
	"time"
)

// The environment of a long run.
const (
	// CountEnv is how many histories a test tries, SeedEnv the number that they are made from. A failed test says
	// which seed repeats it.
	CountEnv = "LAYERCACHE_HISTORIES"
	SeedEnv  = "LAYERCACHE_HISTORIES_SEED"
)

// seed is that of a short run, so that it tries the same every time.
const seed = 20261122

// Configure makes rapid.Check try as many histories as CountEnv says, else few. With SeedEnv they are those of the seed, without it
// those of a constant, or, if CountEnv is set, of the time. The seed is logged. The flags of rapid do not count until the test ends.
func Configure(t testing.TB, few int) {
	t.Helper()
	count, from := uint64(few), uint64(seed)
	if text := os.Getenv(CountEnv); text != "" {
		count, from = parse(t, CountEnv, text), uint64(time.Now().UnixNano())
	}
	if text := os.Getenv(SeedEnv); text != "" {
		from = parse(t, SeedEnv, text)
	}
	set(t, "rapid.checks", strconv.FormatUint(count, 10))
	set(t, "rapid.seed", strconv.FormatUint(from, 10))
	set(t, "rapid.nofailfile", "true")
	t.Logf("%d histories: %s=%d %s=%d go test -run '^%s$'", count, CountEnv, count, SeedEnv, from, t.Name())
}

func parse(t testing.TB, name, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		t.Fatalf("%s=%q is no positive number", name, text)
	}
	return n
}

// set sets a flag until the test ends.
func set(t testing.TB, name, value string) {
	t.Helper()
	f := flag.Lookup(name)
	if f == nil {
		t.Fatalf("there is no flag -%s", name)
	}
	before := f.Value.String()
	if err := f.Value.Set(value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Value.Set(before); err != nil {
			t.Error(err)
		}
	})
}
