package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/subset"
)

// binEnv names a directory where the programs stay from one run to the next. What is there is built again when it has to be.
const binEnv = "LAYERCACHE_E2E_PROGRAMS"

// scratch is a directory that lasts as long as the tests of the package.
var scratch string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "lc-e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := os.RemoveAll(scratch); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// built are the programs, made once.
var built = sync.OnceValues(func() (*Programs, error) {
	dir := os.Getenv(binEnv)
	if dir == "" {
		dir = filepath.Join(scratch, "programs")
	}
	return BuildPrograms(context.Background(), dir)
})

// base is the image that the tests build from, made once.
var base = sync.OnceValues(func() (*Layout, error) {
	p, err := built()
	if err != nil {
		return nil, err
	}
	return WriteLayout(filepath.Join(scratch, "base"), p.Box)
})

// host is a directory with a daemon on it, now of one side and now of the other.
type host struct {
	*Daemon
	t   *testing.T
	cfg Config
	// killed tells whether a daemon was killed on it, which leaves mounts that the next one does not take away.
	killed bool
}

// newHost makes a directory and starts a daemon on it. When the test is over, nothing of it is left.
func newHost(t *testing.T, s Side, snapshotter string, registries ...string) *host {
	t.Helper()
	need.Root(t)
	if snapshotter == Overlayfs {
		need.Overlay(t)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skipf("needs runc, of Debian's package of that name: %v", err)
	}
	programs, err := built()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "lc-e2e") // a test's own directory may have too long a name for a socket
	require.NoError(t, err)
	h := &host{t: t, cfg: Config{Programs: programs, Dir: dir, Snapshotter: snapshotter, Registries: registries}}
	t.Cleanup(h.remove)
	h.start(s)
	return h
}

func (h *host) remove() {
	if h.Daemon != nil {
		if h.t.Failed() {
			h.t.Logf("the end of the log of %s:\n%s", h.cfg.Dir, lastLines(h.Log(), 60))
		}
		if h.Running() {
			require.NoError(h.t, h.Kill())
		}
	}
	require.NoError(h.t, RemoveContainers(h.cfg.Dir))
	require.NoError(h.t, Unmount(h.cfg.Dir))
	left, err := Mounts(h.cfg.Dir)
	require.NoError(h.t, err)
	require.Empty(h.t, left)
	require.NoError(h.t, os.RemoveAll(h.cfg.Dir))
}

// start starts a daemon on the directory, where none runs.
func (h *host) start(s Side) {
	h.t.Helper()
	d, err := Start(h.t.Context(), h.cfg, s)
	require.NoError(h.t, err)
	h.Daemon = d
}

// kill kills the daemon. What ours leaves then is nothing that the next start does not repair by itself. Stock is helped where it could not
// go on: see TestKillInPrepare.
func (h *host) kill() {
	h.t.Helper()
	h.killed = true
	require.NoError(h.t, h.Kill())
	if h.Side == Stock {
		require.NoError(h.t, os.RemoveAll(nextDirectory(h.t, h.cfg)))
	} else {
		state, err := h.cfg.Look(h.t.Context())
		require.NoError(h.t, err)
		require.Empty(h.t, state.Findings)
		h.t.Logf("killed: the next start repairs %d records", len(state.Repaired))
	}
}

// stop stops the daemon. It leaves nothing mounted, and what ours leaves has nothing to repair.
func (h *host) stop() {
	h.t.Helper()
	require.NoError(h.t, h.Stop())
	if !h.killed {
		left, err := Mounts(h.cfg.Dir)
		require.NoError(h.t, err)
		require.Empty(h.t, left)
	}
	require.NotContains(h.t, h.Log(), "panic:")
	if h.Side == Ours {
		state, err := h.cfg.Look(h.t.Context())
		require.NoError(h.t, err)
		require.Empty(h.t, state.Findings)
		require.Empty(h.t, state.Repaired)
	}
}

// restart stops the daemon and starts one of a side.
func (h *host) restart(s Side) {
	h.t.Helper()
	h.stop()
	h.start(s)
}

// build builds from the base image, which FROM base names.
func (h *host) build(b Build) *Result {
	h.t.Helper()
	image, err := base()
	require.NoError(h.t, err)
	b.Base = image
	r, err := h.Build(h.t.Context(), b)
	require.NoError(h.t, err)
	require.NotEmpty(h.t, r.Steps)
	return r
}

// image builds an image that is the same whoever makes it, and throws it away.
func (h *host) image(b Build) *Result {
	h.t.Helper()
	b.Output = "type=oci,dest=" + filepath.Join(h.cfg.Dir, "image.tar")
	r := h.build(b.Reproducible())
	require.NotEmpty(h.t, r.Digest)
	return r
}

// again builds once more, and requires that every step is found in the cache and that the image is the same.
func (h *host) again(b Build, first *Result) {
	h.t.Helper()
	r := h.image(b)
	require.Empty(h.t, r.Ran())
	require.Len(h.t, r.Steps, len(first.Steps))
	require.Equal(h.t, first.Digest, r.Digest)
}

// usage reports what the cache holds, nothing of which is in use.
func (h *host) usage(args ...string) []*client.UsageInfo {
	h.t.Helper()
	records, err := h.Usage(h.t.Context(), args...)
	require.NoError(h.t, err)
	for _, r := range records {
		require.False(h.t, r.InUse, r.Description)
	}
	return records
}

// prune prunes, and returns what went and what is left by their descriptions.
func (h *host) prune(args ...string) (gone, left []string) {
	h.t.Helper()
	before := describe(h.usage())
	records, err := h.Prune(h.t.Context(), args...)
	require.NoError(h.t, err)
	gone, left = describe(records), describe(h.usage())
	require.Equal(h.t, before, sorted(append(slices.Clone(gone), left...)), "what was there is gone or left")
	return gone, left
}

// describe lists records by their descriptions, in an order that does not depend on their names or times. Their types are left out, which
// BuildKit's prune does not report.
func describe(records []*client.UsageInfo) []string {
	list := []string{}
	for _, r := range records {
		list = append(list, r.Description)
	}
	return sorted(list)
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// snapshotters are what each test runs on.
func snapshotters() []string { return []string{Overlayfs, Native} }

// both gives both sides the same work, each on a directory of its own and on each snapshotter, and requires the same of both:
// what work returns. Snapshotters are tested at the same time, and sides one after the other, so that no side disturbs the other.
func both[T any](t *testing.T, work func(t *testing.T, h *host) T, registries ...string) {
	t.Helper()
	for _, snapshotter := range snapshotters() {
		t.Run(snapshotter, func(t *testing.T) {
			subset.Skip(t)
			t.Parallel()
			got := map[Side]T{}
			for _, s := range Sides() {
				t.Run(string(s), func(t *testing.T) {
					h := newHost(t, s, snapshotter, registries...)
					got[s] = work(t, h)
					h.stop()
				})
			}
			if !t.Failed() && len(got) == len(Sides()) {
				require.Equal(t, got[Stock], got[Ours])
			}
		})
	}
}

// contextDir makes a directory of files, which have the same time at any time.
func contextDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, Epoch, Epoch)
	}))
	return dir
}

// dockerfile joins lines.
func dockerfile(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
