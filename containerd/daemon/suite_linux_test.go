package daemon

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/subset"
)

// notHere are the tests of package cache_test that are about package local, or about another snapshotter than the one that is used throughout,
// and why. The form is that of the flag -test.skip.
var notHere = []struct{ pattern, why, throughout string }{
	{"^TestSumOfRandomOperations$", "adds up the files below the cache's directory", ""},
	{"^TestOrderRules$", "reads the databases of a dead process's directory", ""},
	{"^TestOverheadOfDatabases$", "lists the files in the cache's directory", ""},
	{"^TestLostTreeIsExtractedAgain$", "damages trees below the cache's directory", ""},
	{"^TestKilledAtEveryPoint$/./^(recover|repair)$", "takes leases away, and the daemon may collect what they kept before the next start", ""},
	{"^TestNativeIsNotShared$", "compares with how native is mounted", "overlayfs"},
}

// envRun names an environment variable with the tests to run, as for the flag -test.run; by default all.
const envRun = "LAYERCACHE_SUITE_RUN"

// TestSuite runs the tests of package cache_test on a daemon: native where a test does not ask for overlayfs, and overlayfs throughout. The tests
// are compiled together with testdata/backend_test.go, which an overlay of the go command puts beside them, so that neither they
// nor the library's go.mod know of it (docs/adr/0060).
func TestSuite(t *testing.T) {
	need.Root(t)
	program := filepath.Join(t.TempDir(), "suite.test")
	compileSuite(t, program)
	for _, snapshotter := range []string{"", "overlayfs"} {
		name := "as asked for"
		if snapshotter != "" {
			name = snapshotter
		}
		var skip []string
		for _, test := range notHere {
			if test.throughout == "" || test.throughout == snapshotter {
				skip = append(skip, test.pattern)
			}
		}
		t.Run(name, func(t *testing.T) {
			d := Start(t)
			args := []string{"-test.short", "-test.v=test2json", "-test.timeout=30m", "-test.skip=" + strings.Join(skip, "|")}
			run, enough := os.Getenv(envRun), 1
			if run == "" {
				names := subset.Of(t, testNames(t, program))
				run, enough = "^("+strings.Join(names, "|")+")$", len(names)*3/4
			}
			args = append(args, "-test.run="+run)
			cmd := exec.Command(program, args...)
			cmd.Dir = filepath.Join("..", "..")
			cmd.Env = append(os.Environ(), EnvAddress+"="+d.Address, EnvSnapshotter+"="+snapshotter)
			out, err := cmd.CombinedOutput()
			passed, failed := results(string(out))
			require.NoError(t, err, "failed: %q\n%s\n%s", failed, outputOf(string(out), failed), lastLines(string(out), 50))
			require.GreaterOrEqual(t, passed, enough, "hardly anything ran")
		})
	}
}

// compileSuite compiles the tests with the file that puts them on a daemon.
func compileSuite(t *testing.T, program string) {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	file, err := filepath.Abs(filepath.Join("testdata", "backend_test.go"))
	require.NoError(t, err)
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "containerd_backend_test.go"): file}})
	require.NoError(t, err)
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(overlay, text, 0o600))
	out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", program, "github.com/layercache/cache").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// testNames lists the tests of a compiled test program, without examples and benchmarks.
func testNames(t *testing.T, program string) []string {
	t.Helper()
	d := Start(t) // the program asks it for its snapshotter before anything else
	cmd := exec.Command(program, "-test.list=^(Test|Fuzz)")
	cmd.Env = append(os.Environ(), EnvAddress+"="+d.Address)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	names := strings.Fields(string(out))
	require.Greater(t, len(names), 300)
	return names
}

// results counts the top-level tests that passed, and names those that failed.
func results(out string) (passed int, failed []string) {
	for line := range strings.Lines(out) {
		line = strings.TrimPrefix(line, "\x16")
		if strings.HasPrefix(line, "--- PASS: ") {
			passed++
		}
		if name, ok := strings.CutPrefix(line, "--- FAIL: "); ok {
			name, _, _ = strings.Cut(name, " ")
			failed = append(failed, name)
		}
	}
	return passed, failed
}

// outputOf returns what the top-level tests of these names have written.
func outputOf(out string, names []string) string {
	var sb strings.Builder
	for _, name := range names {
		inside := false
		for line := range strings.Lines(out) {
			bare := strings.TrimSpace(strings.TrimPrefix(line, "\x16"))
			if bare == "=== RUN   "+name {
				inside = true
			}
			if inside && !strings.HasPrefix(bare, "time=") {
				sb.WriteString(line)
			}
			if strings.HasPrefix(bare, "--- FAIL: "+name+" ") {
				break
			}
		}
	}
	return sb.String()
}
