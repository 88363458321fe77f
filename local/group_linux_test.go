package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"
)

// A process that is killed in a transaction of several callers leaves what one leaves that is killed in a transaction of its own: nothing is
// lost, nothing is in the way, and the rest is collected. fault 29
func TestKilledInGroup(t *testing.T) {
	needOverlayfs(t)
	dir := t.TempDir()
	p := openParts(t, dir, Options{Snapshotter: Overlayfs})
	newLayer(t, p, "base", "")
	for _, key := range []string{"active1", "active2"} {
		require.NoError(t, addLease(t.Context(), p, key, key))
		require.NoError(t, p.Snapshotter.Prepare(t.Context(), key, "base"))
		writeFile(t, p, key, key)
	}
	require.NoError(t, p.Close())

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, childMode+"=group")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Equal(t, -1, exit.ExitCode(), "%s", out) // by a signal

	p = openParts(t, dir, Options{})
	require.Greater(t, len(names(t, p.guard)), 3, "the snapshotter has what the transaction made")
	for _, key := range []string{"active1", "active2"} {
		info, err := p.Snapshotter.Stat(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, snapshots.KindActive, info.Kind)
		require.NoError(t, leaseAndSnapshot(t.Context(), p, "new-"+key, "base"), "what is left is not in the way")
		require.NoError(t, addLease(t.Context(), p, "top-"+key, "top-"+key))
		require.NoError(t, p.Snapshotter.Commit(t.Context(), "top-"+key, key))
		require.ElementsMatch(t, []string{"base", key}, layerFiles(t, p, "top-"+key))
	}
	_, err = p.GarbageCollect(t.Context())
	require.NoError(t, err)
	require.Len(t, names(t, p.guard), 5)
	require.Len(t, snapshotDirs(t, p), 5)
}

// groupChild has two callers share a transaction, who commit a snapshot and make another one each, and dies before its end.
func groupChild(dir string) int {
	p, err := OpenParts(context.Background(), dir, Options{})
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	part := func(ctx context.Context, key string) error {
		if err := leaseAndSnapshot(ctx, p, "new-"+key, "base"); err != nil {
			return err
		}
		return p.Snapshotter.Commit(ctx, "top-"+key, key)
	}
	err = p.Transactions.Update(context.Background(), func(ctx context.Context) error {
		go func() {
			err := p.Transactions.Update(context.Background(), func(ctx context.Context) error {
				err := part(ctx, "active2")
				if err == nil {
					err = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
				return err
			})
			fmt.Println("failed: the second ended with", err)
			os.Exit(1)
		}()
		for p.tx.waiting.queued() == 0 {
			runtime.Gosched()
		}
		return part(ctx, "active1")
	})
	fmt.Println("failed: the first ended with", err)
	return 1
}
