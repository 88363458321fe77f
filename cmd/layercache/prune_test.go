package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil"
)

// ids returns the first column of the lines that name a record, in order.
func ids(out string) (ids []string) {
	for line := range strings.Lines(out) {
		if fields := strings.Split(line, "\t"); len(fields) > 1 {
			ids = append(ids, fields[0])
		}
	}
	return ids
}

// Prune deletes what the policy allows, says what, and adds up. spec PRN-8, PRN-9, FLT-1
func TestPrune(t *testing.T) {
	m := makeCache(t)
	out := mustRun(t, "prune", m.dir, "-filter", "description==merged")
	require.Equal(t, []string{m.merge}, ids(out))
	require.Contains(t, out, "deleted 1 record, 0 B\n")
	require.Contains(t, mustRun(t, "prune", "-keep-duration", "1h", "-max-used-space", "1GB", m.dir), "deleted 0 records, 0 B\n")

	out = mustRun(t, "prune", m.dir)
	require.NotContains(t, ids(out), m.internal)
	require.Len(t, ids(out), 4)
	require.Regexp(t, `deleted 4 records, [0-9.]+ kB\n\z`, out)
	require.Regexp(t, `(?m)^1 record: `, mustRun(t, "du", m.dir))

	require.Equal(t, []string{m.internal}, ids(mustRun(t, "prune", m.dir, "-all")))
	out = mustRun(t, "du", m.dir)
	require.Regexp(t, `(?m)^0 records: 0 B, `, out)
	require.NotContains(t, out, "orphan", "the space is given back, not only forgotten")
	require.Equal(t, "ok\n", mustRun(t, "check", m.dir))
}

// With a limit of space the least used go first, until the rest is within it. spec PRN-5
func TestPruneBudget(t *testing.T) {
	m := makeCache(t)
	out := mustRun(t, "prune", m.dir, "--all", "--max-used-space", "41KiB")
	require.NotEmpty(t, ids(out))
	require.NotContains(t, ids(out), m.base, "others lie on it")
	require.Empty(t, ids(mustRun(t, "prune", m.dir, "--all", "--reserved-space=1GB")))
}

// A dry run tells what the run then does, record by record and to the byte, and changes nothing; what stays is told with the reason. fault 20
func TestDryRun(t *testing.T) {
	for name, policy := range map[string][]string{
		"everything that may": nil,
		"all":                 {"-all"},
		"budget":              {"-all", "-max-used-space", "41KiB"},
		"reserved":            {"-keep-bytes", "25KiB"},
		"filtered":            {"-filter", "description==merged", "-filter", "id==nobody"},
		"young":               {"-keep-duration", "1h"},
	} {
		t.Run(name, func(t *testing.T) {
			forEachSnapshotter(t, func(t *testing.T, m *made) {
				policy := append([]string{"prune", m.dir}, policy...)
				var dry string
				untouched(t, m.dir, func() {
					dry = mustRun(t, append(policy, "-dry-run")...)
					testWhy(t, dry, mustRun(t, append(policy, "-dry-run", "-why")...))
				})
				did := mustRun(t, policy...)
				require.Equal(t, strings.Replace(dry, "would delete", "deleted", 1), did)
			})
		})
	}
}

// testWhy wants every record to go or to stay, and a reason for each that stays.
func testWhy(t *testing.T, dry, why string) {
	t.Helper()
	rest, ok := strings.CutPrefix(why, dry+"\n")
	require.True(t, ok, "%s\n%s", dry, why)
	lines := strings.Split(strings.TrimSpace(rest), "\n")
	require.Regexp(t, `^STAYS +SIZE +REASON +DESCRIPTION$`, lines[0])
	require.Len(t, lines[1:], 6-len(ids(dry)))
	for _, line := range lines[1:] {
		require.Regexp(t, `  (protected type|too young|filtered|parent|within budget)  `, line)
		require.NotContains(t, ids(dry), strings.Fields(line)[0])
	}
}

// On a terminal what is under way is shown at its bottom, and taken away in the end.
func TestTerminal(t *testing.T) {
	m := makeCache(t)
	tty := func() (int, int) { return 80, 24 }
	r := layercache(t, tty, "du", m.dir)
	require.Zero(t, r.code)
	require.Equal(t, "measuring ...\x1b[K\n\r\x1b[1A\x1b[J", r.stderr)
	require.NotContains(t, r.stdout, "\x1b")
	r = layercache(t, tty, "prune", m.dir)
	require.Zero(t, r.code)
	require.True(t, strings.HasPrefix(r.stderr, "deleted 0 records, 0 B\x1b[K\n"), "%q", r.stderr)
	require.True(t, strings.HasSuffix(r.stderr, "\x1b[J"), "%q", r.stderr)
	require.NotContains(t, r.stdout, "\x1b")
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "9223372036854775807": 1<<63 - 1, "10GB": 10e9, "10gb": 10e9, "512MiB": 512 << 20, "1.5k": 1500,
		"2 TiB": 2 << 40, "7B": 7, "1EB": 1e18, "3M": 3e6,
	} {
		var s size
		require.NoError(t, s.Set(text), text)
		require.EqualValues(t, want, s, text)
	}
	for _, text := range []string{"", "GB", "1XB", "ten", "-1", "-1GB", "1e3", "9EiB9", "99EB", "0x10", "1_000", "NaN", "Inf", "9223372036854775808"} {
		s := size(42)
		require.Error(t, s.Set(text), text)
		require.EqualValues(t, 42, s, text)
	}
}

// An empty cache is nothing to be afraid of.
func TestEmptyCache(t *testing.T) {
	env := testutil.New(t)
	require.NoError(t, env.Close())
	untouched(t, env.Dir, func() {
		require.Contains(t, mustRun(t, "du", env.Dir), "\n0 records: 0 B, reclaimable 0 B\n")
		require.Contains(t, mustRun(t, "du", "--json", env.Dir), `"records": []`)
		require.Equal(t, "ok\n", mustRun(t, "check", env.Dir))
	})
	require.Equal(t, "deleted 0 records, 0 B\n", mustRun(t, "prune", env.Dir))
}
