package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/subset"
)

const (
	passA  = `{"Action":"run","Package":"m/p","Test":"TestA"}` + "\n" + `{"Action":"output","Package":"m/p","Test":"TestA","Output":"=== RUN   TestA\n"}` + "\n" + `{"Action":"pass","Package":"m/p","Test":"TestA"}` + "\n"
	skipB  = `{"Action":"run","Package":"m/p","Test":"TestB"}` + "\n" + `{"Action":"output","Package":"m/p","Test":"TestB","Output":"    b_test.go:3: needs root\n"}` + "\n" + `{"Action":"skip","Package":"m/p","Test":"TestB"}` + "\n"
	skipAx = `{"Action":"run","Package":"m/p","Test":"TestA/x"}` + "\n" + `{"Action":"skip","Package":"m/p","Test":"TestA/x"}` + "\n"
	leftE  = `{"Action":"run","Package":"m/p","Test":"TestE/x"}` + "\n" + `{"Action":"output","Package":"m/p","Test":"TestE/x","Output":"    e_test.go:3: ` + subset.Marker + `4/seed\n"}` + "\n" + `{"Action":"skip","Package":"m/p","Test":"TestE/x"}` + "\n"
	failC  = `{"Action":"run","Package":"m/p","Test":"TestC"}` + "\n" + `{"Action":"output","Package":"m/p","Test":"TestC","Output":"    c_test.go:9: boom\n"}` + "\n" + `{"Action":"fail","Package":"m/p","Test":"TestC"}` + "\n"
	hangD  = `{"Action":"run","Package":"m/p","Test":"TestD"}` + "\n" + `{"Action":"output","Package":"m/p","Test":"TestD","Output":"panic: late\n"}` + "\n"
	okPkg  = `{"Action":"output","Package":"m/p","Output":"PASS\n"}` + "\n" + `{"Action":"output","Package":"m/p","Output":"ok  \tm/p\t0.012s\n"}` + "\n" + `{"Action":"pass","Package":"m/p","Elapsed":0.012}` + "\n"
	badPkg = `{"Action":"fail","Package":"m/p","Elapsed":0.5}` + "\n"
	build  = `{"ImportPath":"m/p","Action":"build-output","Output":"p.go:1: undefined: x\n"}` + "\n" + `{"ImportPath":"m/p","Action":"build-fail"}` + "\n"
)

func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name, must, in string
		code           int
		stdout, stderr []string
	}{
		{name: "clean", must: "./p TestA\n", in: passA + okPkg, stdout: []string{"ok  \tm/p\t0.012s\n", "1 passed, 0 failed, 0 skipped in 1 packages"}},
		{name: "an unlisted skip is shown and allowed", must: "./p TestA\n", in: passA + skipB + okPkg, stdout: []string{"needs root"}},
		{name: "a listed skip fails", must: "./... Test.*\n", in: passA + skipB + okPkg, code: 1, stderr: []string{"must run here, but skipped: m/p.TestB (list line 1)"}},
		{name: "an exception with its reason", must: "./... Test.*\n- ./p TestB not on this system\n", in: passA + skipB + okPkg},
		{name: "a skipped subtest of a listed test fails", must: "./p TestA\n", in: skipAx + passA + okPkg, code: 1, stderr: []string{"skipped: m/p.TestA/x"}},
		{name: "a listed test is gone", must: "./p TestGone\n./p TestA\n", in: passA + okPkg, code: 1, stderr: []string{"no such test ran: ./p TestGone (list line 1)"}},
		{name: "a failure shows its output", must: "./p TestA\n", in: passA + failC + badPkg, code: 1, stdout: []string{"c_test.go:9: boom", "FAIL\tm/p\t0.500s\n"}, stderr: []string{"failed: m/p.TestC"}},
		{name: "a test that never ended failed", must: "./p TestA\n", in: passA + hangD + badPkg, code: 1, stdout: []string{"panic: late"}, stderr: []string{"failed: m/p.TestD"}},
		{name: "a package that does not build", in: passA + okPkg + build, code: 1, stdout: []string{"undefined: x"}, stderr: []string{"does not build: m/p"}},
		{name: "noise that is not an event", in: passA + "go: no module\n" + okPkg, code: 1, stderr: []string{"not a test event: go: no module"}},
		{name: "nothing ran", in: "", code: 1, stderr: []string{"nothing to check"}},
		{name: "an empty list", must: "# none\n", in: passA, code: 2, stderr: []string{"the list is empty"}},
		{name: "an exception without a reason", must: "- ./p TestB\n", in: passA, code: 2, stderr: []string{"line 1"}},
		{name: "a bad regular expression", must: "./p (\n", in: passA, code: 2, stderr: []string{"line 1"}},
		{name: "a package that is not relative", must: "m/p TestA\n", in: passA, code: 2, stderr: []string{"must start with ./"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			must := ""
			if tc.must != "" {
				must = filepath.Join(t.TempDir(), "must")
				require.NoError(t, os.WriteFile(must, []byte(tc.must), 0o600))
			}
			var out, errOut bytes.Buffer
			require.Equal(t, tc.code, run(strings.NewReader(tc.in), &out, &errOut, must, "m"), "%s%s", &out, &errOut)
			for _, want := range tc.stdout {
				require.Contains(t, out.String(), want)
			}
			for _, want := range tc.stderr {
				require.Contains(t, errOut.String(), want)
			}
			if tc.code == 0 {
				require.Empty(t, errOut.String())
			}
			require.NotContains(t, out.String(), "=== RUN")
		})
	}
}

// Tests that are not in a subset count neither as skipped nor as missing, where a subset was asked for.
func TestRunOfASubset(t *testing.T) {
	must := filepath.Join(t.TempDir(), "must")
	require.NoError(t, os.WriteFile(must, []byte("./... .*\n./p TestE/x/y\n"), 0o600))
	verdict := func(in string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := run(strings.NewReader(in), &out, &errOut, must, "m")
		return code, out.String(), errOut.String()
	}
	t.Setenv(subset.Env, "")
	code, _, problems := verdict(passA + leftE + okPkg)
	require.Equal(t, 1, code)
	require.Contains(t, problems, "skipped: m/p.TestE/x")

	t.Setenv(subset.Env, "4/seed")
	code, out, problems := verdict(passA + leftE + okPkg)
	require.Zero(t, code, problems)
	require.Contains(t, out, "1 passed, 0 failed, 0 skipped in 1 packages; 1 not in the subset 4/seed")
	code, _, problems = verdict(passA + leftE + skipB + okPkg)
	require.Equal(t, 1, code)
	require.Contains(t, problems, "skipped: m/p.TestB")
	code, _, problems = verdict(passA + okPkg)
	require.Equal(t, 1, code)
	require.Contains(t, problems, "no such test ran: ./p TestE/x/y")
	code, _, _ = verdict(leftE + okPkg)
	require.Equal(t, 1, code, "nothing passed")
}

func TestMatchPackage(t *testing.T) {
	for _, tc := range []struct {
		pattern, pkg string
		want         bool
	}{
		{".", "m", true},
		{".", "m/p", false},
		{"./...", "m", true},
		{"./...", "m/p/q", true},
		{"./...", "mm", false},
		{"./p", "m/p", true},
		{"./p", "m/p/q", false},
		{"./p/...", "m/p", true},
		{"./p/...", "m/p/q", true},
		{"./p/...", "m/pp", false},
	} {
		require.Equal(t, tc.want, matchPackage("m", tc.pattern, tc.pkg), "%s %s", tc.pattern, tc.pkg)
	}
}
