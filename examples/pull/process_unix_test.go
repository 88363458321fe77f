//go:build unix

package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/crash"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
)

// child is the program in a process of its own. bin is the test binary.
func child(ctx context.Context, t testing.TB, bin string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, bin, append([]string{"-platform", "linux/amd64"}, args...)...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	return cmd
}

// An interrupt ends a transfer that hangs, with the exit code of an interrupted program; the next run
// goes on.
func TestInterrupt(t *testing.T) { // faults 25, 26
	made := makeImage(t, standardLayers()...)
	reg, dir := serve(t, made), filepath.Join(t.TempDir(), "cache")
	asked, free := make(chan struct{}), make(chan struct{})
	reg.serveInstead(func(_ http.ResponseWriter, r *http.Request, d digest.Digest) bool {
		if d == made.layers[1].Digest && r.Method == http.MethodGet {
			close(asked)
			<-free
			return true
		}
		return false
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := child(ctx, t, os.Args[0], "-cache", dir, "-extract", reg.ref)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	<-asked
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	err := cmd.Wait()
	close(free)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, console.ExitInterrupt, exit.ExitCode(), "%s", stderr.String())
	require.Regexp(t, `(?m)^pull: interrupted: `, stderr.String())
	require.NotContains(t, stderr.String(), "goroutine")

	reg.serveInstead(nil)
	mustPull(t, "-cache", dir, "-extract", reg.ref)
	requireImage(t, dir, made, standardTree()...)
}

// Another user than root gets the same files, as his own.
func TestAsNobody(t *testing.T) {
	need.Root(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("needs user nobody: %v", err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(nobody.Gid)
	require.NoError(t, err)
	made := makeImage(t, standardLayers()...)
	layout := made.writeLayout(t)
	require.NoError(t, os.Chmod(filepath.Dir(layout), 0o755))
	home := t.TempDir()
	bin := filepath.Join(home, "pull")
	copyFile(t, bin, os.Args[0])
	require.NoError(t, os.Mkdir(filepath.Join(home, "tmp"), 0o700))
	for _, path := range []string{home, filepath.Join(home, "tmp"), bin} {
		require.NoError(t, os.Chown(path, uid, gid))
	}

	run := func() string {
		cmd := child(t.Context(), t, bin, "-cache", filepath.Join(home, "cache"), "-extract", "-list", layout)
		cmd.Env = append(cmd.Env, "HOME="+home, "TMPDIR="+filepath.Join(home, "tmp"))
		cmd.Dir = home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	out := run()
	require.Contains(t, out, standardListing)
	require.Contains(t, out, "done   4 blobs fetched")
	out = run()
	require.Contains(t, out, standardListing)
	require.Contains(t, out, "done   0 blobs fetched (0 B), 0 extracted")
}

func copyFile(t testing.TB, dst, src string) {
	t.Helper()
	in, err := os.Open(src)
	require.NoError(t, err)
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, in.Close())
	require.NoError(t, out.Close())
}

// A process that is killed while it unpacks layers leaves a cache in which the next one ends right.
func TestKilled(t *testing.T) { // fault 29, spec EXT-9
	if job, ok := crash.Asked(t); ok {
		faults := fault.New()
		job.Arm(faults)
		s := settings{cacheDir: job.Dir, source: job.Args[0], platform: testPlatform, extract: true}
		s.open = local.Options{WrapSnapshotter: func(sn snapshots.Snapshotter) snapshots.Snapshotter { return faults.ContainerdSnapshotter(sn) }}
		err := run(t.Context(), s, &console.Printer{W: io.Discard}, console.NewView(io.Discard, nil))
		t.Fatalf("the run came to its end: %v", err)
	}
	made := makeImage(t, standardLayers()...)
	layout := made.writeLayout(t)
	for _, op := range []string{fault.OpSnapshotPrepare, fault.OpSnapshotMounts, fault.OpSnapshotCommit} {
		for _, when := range []fault.When{fault.Before, fault.After} {
			for _, nth := range []int{1, 5} {
				t.Run(op+" "+when.String()+" "+strconv.Itoa(nth), func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "cache")
					t.Cleanup(func() { unmountBelow(t, filepath.Dir(filepath.Dir(dir))) })
					crash.Run(t, crash.Job{Dir: dir, Args: []string{layout}, Op: op, When: when, Nth: nth})
					mustPull(t, "-cache", dir, "-extract", layout)
					requireImage(t, dir, made, standardTree()...)
				})
			}
		}
	}
}

// unmountBelow takes away what a dead process had mounted.
func unmountBelow(t testing.TB, dir string) {
	t.Helper()
	if os.Geteuid() == 0 {
		require.NoError(t, mount.UnmountRecursive(dir, 0))
	}
}
