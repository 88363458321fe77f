package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindIDs(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []string
		err  string
	}{
		{text: "spec META-3 and REF-8a", want: []string{"META-3", "REF-8a"}},
		{text: "spec META-1..3", want: []string{"META-1", "META-2", "META-3"}},
		{text: "MGR-41..MGR-42", want: []string{"MGR-41", "MGR-42"}},
		{text: "(quirk Q06) Q16..18 S-34", want: []string{"S-34", "Q06", "Q16", "Q17", "Q18"}},
		{text: "Fault 24; faults 26, 33 and 35..36", want: []string{"fault 24", "fault 26", "fault 33", "fault 35", "fault 36"}},
		{text: "AWS-3 METAL-4 XQ06 SHA-256 Q6 default 4 REC-x UTF-8"},
		{text: "META-16", err: "no rule META-16"},
		{text: "META-0", err: "no rule META-0"},
		{text: "META-3..2", err: "no rule META-3 to META-2"},
		{text: "META-1..REF-3", err: "a range from META to REF"},
		{text: "Q82", err: "no rule Q82"},
		{text: "fault 45", err: "no rule fault 45"},
		{text: "META-99999999999999999999", err: "no rule"},
	} {
		got, err := findIDs(tc.text)
		if tc.err != "" {
			require.ErrorContains(t, err, tc.err, tc.text)
			continue
		}
		require.NoError(t, err, tc.text)
		require.Equal(t, tc.want, got, tc.text)
	}
}

const testSource = `package p

import "testing"

// TestA pins it: spec META-1, fault 24.
func TestA(t *testing.T) {
	t.Run("quirk Q06", func(t *testing.T) {}) // spec REF-8a
}

// Between two tests: META-2 counts for neither.

func helper() string { return "META-3" }

// check belongs to a test: scenario S-2.
func (m *machine) check(t *rapid.T) {}

func ExampleX() {
	// spec API-1
}

func BenchmarkNo(b *testing.B) { _ = "META-4" }
`

func repository(t *testing.T, required string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"store_test.go":                testSource,
		"plain.go":                     "package p\n\n// META-5\nfunc X() {}\n",
		"snap/snaptest/suite.go":       "package snaptest\n\nimport \"testing\"\n\n// Run covers SNP-1.\nfunc Run(t *testing.T) {}\n",
		"internal/tools/x/x_test.go":   "package x\n\nimport \"testing\"\n\n// META-6\nfunc TestX(t *testing.T) {}\n",
		"snap/testdata/broken_test.go": "not Go",
		"docs/.keep":                   "",
		requiredFile:                   required,
	} {
		full := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o700))
		require.NoError(t, os.WriteFile(full, []byte(text), 0o600))
	}
	return root
}

func TestScan(t *testing.T) {
	got, err := scan(repository(t, "META-1\n"))
	require.NoError(t, err)
	require.Equal(t, table{
		"META-1":   {"p.TestA": true},
		"fault 24": {"p.TestA": true},
		"Q06":      {"p.TestA": true},
		"REF-8a":   {"p.TestA": true},
		"S-2":      {"p.machine.check": true},
		"API-1":    {"p.ExampleX": true},
		"SNP-1":    {"snap/snaptest.Run": true},
	}, got)
	require.Regexp(t, `(?s)\| API-1 \|.*\| META-1 \|.*\| SNP-1 \|.*\| Q06 \|.*\| S-2 \|.*\| fault 24 \| p.TestA \|\n$`, got.markdown())
}

func TestRun(t *testing.T) {
	root := repository(t, "META-1 SNP-1\nQ06 # a note, META-7\n")
	bad, err := run(root, true)
	require.NoError(t, err)
	require.Equal(t, []string{"docs/rules.md is stale: run `go run ./internal/tools/ruletable`"}, bad, "no table yet")

	_, err = run(root, false)
	require.NoError(t, err)
	bad, err = run(root, true)
	require.NoError(t, err)
	require.Empty(t, bad, "written and complete")

	require.NoError(t, os.WriteFile(filepath.Join(root, "new_test.go"), []byte("package p\n\nimport \"testing\"\n\n// META-8\nfunc TestN(t *testing.T) {}\n"), 0o600))
	bad, err = run(root, true)
	require.NoError(t, err)
	require.Len(t, bad, 1, "a new test makes the table stale")
}

func TestRequiredRules(t *testing.T) {
	for _, tc := range []struct{ name, required, bad, err string }{
		{name: "without a test", required: "META-1..3 REF-9\n", bad: "3 rules of .ci/rules-required.txt have no test that names them: META-2, META-3, REF-9"},
		{name: "empty list", required: "# none\n", err: "the list is empty"},
		{name: "a line without a rule", required: "META1\n", err: ":1: no rule in"},
		{name: "an unknown rule", required: "META-77\n", err: "no rule META-77"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := repository(t, tc.required)
			_, err := run(root, false)
			require.NoError(t, err)
			bad, err := run(root, true)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []string{tc.bad}, bad)
		})
	}
}

// TestSlipsAreErrors: a misspelt rule in a test must not vanish silently.
func TestSlipsAreErrors(t *testing.T) {
	root := repository(t, "META-1\n")
	require.NoError(t, os.WriteFile(filepath.Join(root, "slip_test.go"), []byte("package p\n\nimport \"testing\"\n\n// spec META-16\nfunc TestSlip(t *testing.T) {}\n"), 0o600))
	_, err := run(root, true)
	require.ErrorContains(t, err, "slip_test.go: TestSlip: there is no rule META-16")
}
