package local

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// childEnv names the directory that the test binary, run as a child, works on; childMode says what
// it does, childLayers with how many layers.
const (
	childEnv    = "LAYERCACHE_LOCAL_TEST_CHILD"
	childMode   = "LAYERCACHE_LOCAL_TEST_MODE"
	childLayers = "LAYERCACHE_LOCAL_TEST_LAYERS"
)

// child holds a directory open, or just one of its databases as buildkitd would, until its standard
// input ends.
func child(dir string) int {
	var closer io.Closer
	var err error
	switch mode := os.Getenv(childMode); mode {
	case "parts":
		closer, err = OpenParts(context.Background(), dir, Options{Snapshotter: Native})
	case "counts":
		return countingChild(dir)
	case "group":
		return groupChild(dir)
	default:
		closer, err = bolt.Open(filepath.Join(dir, mode), 0o600, nil)
	}
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Println("open")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	if err := closer.Close(); err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	return 0
}

// startChild runs the test binary as a child and returns once it has opened what it should.
// stop ends it; kill does so the hard way.
func startChild(t *testing.T, dir, mode string) (stop, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, childMode+"="+mode)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "open", strings.TrimSpace(line))
	stop = func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	}
	kill = func() {
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
	}
	return stop, kill
}

// A second process on the same directory is told at once, and may have it when the first has gone,
// in whatever way. fault 33
func TestSecondProcess(t *testing.T) {
	for _, mode := range []string{"parts", backendDB, recordsDB} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, openParts(t, dir, Options{Snapshotter: Native}).Close())
			for _, end := range []string{"stop", "kill"} {
				stop, kill := startChild(t, dir, mode)
				before := hashDir(t, dir)
				start := time.Now()
				_, err := OpenParts(t.Context(), dir, Options{})
				require.ErrorIs(t, err, ErrInUse)
				require.ErrorIs(t, err, errdefs.ErrUnavailable)
				require.Less(t, time.Since(start), 10*time.Second, "it should not wait for the other process, which waits for us")
				require.Equal(t, before, hashDir(t, dir))
				if end == "stop" {
					stop()
				} else {
					kill()
				}
				require.NoError(t, openParts(t, dir, Options{}).Close())
			}
		})
	}
}

// The same holds within one process.
func TestSecondOpenInOneProcess(t *testing.T) {
	dir := t.TempDir()
	p := openParts(t, dir, Options{Snapshotter: Native})
	_, err := OpenParts(t.Context(), dir, Options{Snapshotter: Native})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, addLease(t.Context(), p, "still-works", "s"))
}
