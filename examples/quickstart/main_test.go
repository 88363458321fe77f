package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/local"
)

// childEnv makes the test binary run the quickstart itself.
const childEnv = "LAYERCACHE_QUICKSTART_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// quickstart runs the program in a process of its own.
func quickstart(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

var stepLine = regexp.MustCompile(`(?m)^step .*: (hit|miss)$`)

func results(out string) string {
	var all []string
	for _, m := range stepLine.FindAllStringSubmatch(out, -1) {
		all = append(all, m[1])
	}
	return strings.Join(all, " ")
}

// sources makes a tree with everything that the quickstart tells apart.
func sources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{
		"a.go": 0o644, "a_test.go": 0o644, "sub/b.sh": 0o755, "sub/b_test.go": 0o600,
		"locked/c.txt": 0o400, ".git/HEAD": 0o644,
	} {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(path), 0o600))
		require.NoError(t, os.Chmod(path, mode))
	}
	require.NoError(t, os.Symlink("../a.go", filepath.Join(dir, "sub", "link")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "locked"), 0o500))
	t.Cleanup(func() { require.NoError(t, os.Chmod(filepath.Join(dir, "locked"), 0o700)) })
	return dir
}

// The second run, of another process, finds every step; a changed file makes them all anew, and
// changing it back finds the old ones.
func TestSecondRunHits(t *testing.T) {
	src, dir := sources(t), filepath.Join(t.TempDir(), "cache")
	args := []string{"-src", src, "-dir", dir}
	out := quickstart(t, args...)
	require.Equal(t, "miss miss miss", results(out), out)
	// a.go, sub, sub/b.sh, sub/link, locked, locked/c.txt, dangling, and the directory with the list
	require.Contains(t, out, "verified 9 entries", out)
	require.Contains(t, out, "source "+src+" (9 entries)")
	require.Len(t, regexp.MustCompile(`(?m)^\S+ +immutable +[0-9]`).FindAllString(out, -1), 3, out)
	// The third layer only deletes, which takes nothing on a filesystem in memory.
	require.GreaterOrEqual(t, len(regexp.MustCompile(`(?m)^\S+ +immutable +[1-9]`).FindAllString(out, -1)), 2, out)

	files := countFiles(t, dir)
	out = quickstart(t, args...)
	require.Equal(t, "hit hit hit", results(out), out)
	require.LessOrEqual(t, countFiles(t, dir), files, "nothing is copied; what the first run left may be collected")

	changed := filepath.Join(src, "sub", "b.sh")
	before, err := os.ReadFile(changed)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(changed, []byte("changed"), 0o600))
	require.Equal(t, "miss miss miss", results(quickstart(t, args...)))
	require.NoError(t, os.WriteFile(changed, before, 0o600))
	require.Equal(t, "hit hit hit", results(quickstart(t, args...)))
	require.NoError(t, os.Chmod(changed, 0o700))
	require.Equal(t, "miss miss miss", results(quickstart(t, args...)), "the mode counts")
}

func countFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join(dir, "snapshots"), func(string, os.DirEntry, error) error {
		n++
		return nil
	}))
	return n
}

// A cache below the sources is not part of them.
func TestCacheBelowSources(t *testing.T) {
	src := sources(t)
	args := []string{"-src", src, "-dir", filepath.Join(src, "cache")}
	require.Equal(t, "miss miss miss", results(quickstart(t, args...)))
	require.Equal(t, "hit hit hit", results(quickstart(t, args...)))
}

// A layer that does not hold what it should is found out.
func TestVerifyFindsDifferences(t *testing.T) {
	src := sources(t)
	tr, err := scan(src, "")
	require.NoError(t, err)
	steps := imageOf(src, tr)
	steps[0].want = tree{"a.go": {mode: 0o600}, "absent": {mode: 0o644}}
	var out strings.Builder
	c, err := local.Open(t.Context(), t.TempDir(), local.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	ref, want, err := build(t.Context(), &out, c, steps[:1])
	require.NoError(t, err)
	err = verify(t.Context(), ref, want)
	require.ErrorContains(t, err, "a.go is ")
	require.ErrorContains(t, err, "absent is missing")
	require.ErrorContains(t, err, "sub should not be there")
	require.NoError(t, ref.Release(t.Context()))
}

// A failing step leaves nothing behind, and says which it was.
func TestFailingStep(t *testing.T) {
	c, err := local.Open(t.Context(), t.TempDir(), local.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	_, _, err = build(t.Context(), &strings.Builder{}, c, []step{{name: "bad", apply: func(string) error { return os.ErrDeadlineExceeded }}})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorContains(t, err, `"bad"`)
	require.Zero(t, c.Stats().Refs)
	require.Zero(t, c.Stats().Records)
}
