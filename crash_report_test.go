package cache_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashReportEnv names the file that a full run writes its result into, between the two lines below.
const (
	crashReportEnv   = "LAYERCACHE_CRASH_REPORT"
	crashReportBegin = "<!-- crash matrix, written by TestKilledAtEveryPoint: begin -->"
	crashReportEnd   = "<!-- crash matrix: end -->"
)

// tally counts what was run. The zero value is ready for use.
type tally struct {
	mu    sync.Mutex
	cells map[string]map[string]*cell // by operation and backend
	begun time.Time
	gaps  int // runs that ended in the known gap, see inNativeGap
}

// cell is one operation on one backend.
type cell struct{ points, runs, failures int }

// cell returns an operation's numbers. The caller has the mutex.
func (c *tally) cellLocked(backend, name string) *cell {
	if c.cells == nil {
		c.cells, c.begun = map[string]map[string]*cell{}, time.Now()
	}
	if c.cells[name] == nil {
		c.cells[name] = map[string]*cell{}
	}
	if c.cells[name][backend] == nil {
		c.cells[name][backend] = &cell{}
	}
	return c.cells[name][backend]
}

// count notes a run; it is deferred by the test of that run.
func (c *tally) count(t *testing.T, backend, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.cellLocked(backend, name)
	at.runs++
	if t.Failed() {
		at.failures++
	}
}

func (c *tally) countGap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gaps++
}

// note stores how many points an operation has.
func (c *tally) note(backend, name string, points int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cellLocked(backend, name).points = points
}

// report logs the result, and writes that of a full run where LAYERCACHE_CRASH_REPORT says.
func (m *matrix) report(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum cell
	for _, row := range m.cells {
		for _, c := range row {
			sum.points += c.points
			sum.runs += c.runs
			sum.failures += c.failures
		}
	}
	t.Logf("%d operations, %d points, %d processes killed at one or more, %d failures", len(m.cells), sum.points, sum.runs, sum.failures)
	path := os.Getenv(crashReportEnv)
	if path == "" || !m.full {
		return
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := bytes.Cut(text, []byte(crashReportBegin))
	require.True(t, ok, "%s has no line %q", path, crashReportBegin)
	_, after, ok := bytes.Cut(rest, []byte(crashReportEnd))
	require.True(t, ok, "%s has no line %q", path, crashReportEnd)
	text = fmt.Appendf(nil, "%s%s\n\n%s\n%s%s", before, crashReportBegin, m.table(sum), crashReportEnd, after)
	require.NoError(t, os.WriteFile(path, text, 0o644)) //nolint:gosec // a page of the documentation
}

// table is the result in Markdown.
func (m *matrix) table(sum cell) string {
	var sb strings.Builder
	verdict := "PASS"
	if sum.failures > 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(&sb, "**%s**: %d operations on %d backends, %d fault points, %d runs, %d failures.\n\n",
		verdict, len(m.cells), len(crashBackends), sum.points, sum.runs, sum.failures)
	if m.gaps > 0 {
		fmt.Fprintf(&sb, "%d of the runs died between the commits of the native snapshotter's database and of containerd's, and lost the "+
			"layer that was being finalized: the gap of adr/0012, which overlayfs does not have.\n\n", m.gaps)
	}
	fmt.Fprintf(&sb, "- date: %s, %s\n", time.Now().UTC().Format(time.RFC3339), time.Since(m.begun).Round(time.Second))
	fmt.Fprintf(&sb, "- commit: %s\n", revision())
	fmt.Fprintf(&sb, "- machine: %s/%s, %d cores, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(&sb, "- seed: %d\n\n", m.seed)
	backends := slices.Sorted(maps.Keys(crashBackends))
	fmt.Fprintf(&sb, "Points / runs of each:\n\n| operation | %s |\n|---|%s\n", strings.Join(backends, " | "), strings.Repeat("---|", len(backends)))
	for _, name := range slices.Sorted(maps.Keys(m.cells)) {
		fmt.Fprintf(&sb, "| %s |", name)
		for _, backend := range backends {
			switch c := m.cells[name][backend]; {
			case c == nil:
				sb.WriteString(" not run |")
			case c.failures > 0:
				fmt.Fprintf(&sb, " %d / %d, **%d failed** |", c.points, c.runs, c.failures)
			default:
				fmt.Fprintf(&sb, " %d / %d |", c.points, c.runs)
			}
		}
		sb.WriteString("\n")
	}
	return sb.String()
}

// revision is the commit of the working tree, as far as git tells.
func revision() string {
	out, err := exec.Command("git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
