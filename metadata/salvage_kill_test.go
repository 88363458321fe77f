//go:build unix

package metadata

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The environment by which TestSalvageKilled tells its child what to do.
const (
	killPath = "METADATA_TEST_SALVAGE_PATH"
	killStep = "METADATA_TEST_SALVAGE_STEP"
)

// TestSalvageKilled kills the process after each step. At any time the damaged file is at its
// place, or the new one is and the damaged one beside it; the next open brings it to an end and
// leaves nothing else behind.
// fault 30
func TestSalvageKilled(t *testing.T) {
	if path := os.Getenv(killPath); path != "" {
		_, err := NewStore(path, withOps(func(o *salvageOps) {
			o.step = func(name string) {
				if name == os.Getenv(killStep) {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {}
				}
			}
		}))
		t.Fatal("not killed: ", err)
	}
	for _, freelist := range []bool{true, false} {
		for _, step := range []string{"written", "kept", "replaced"} {
			path, content := damagedSample(t, freelist)
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSalvageKilled$")
			child.Env = append(os.Environ(), killPath+"="+path, killStep+"="+step)
			out, err := child.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			status, ok := exit.Sys().(syscall.WaitStatus)
			require.True(t, ok)
			require.Equal(t, syscall.SIGKILL, status.Signal(), "%s", out)

			at, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, step == "replaced", !bytes.Equal(content, at))
			s, err := NewStore(path)
			require.NoError(t, err)
			require.Equal(t, step != "replaced", s.Salvaged() != nil)
			require.Len(t, allIDs(t, s), 3*24-8-1)
			require.NoError(t, s.Close())
			requireNames(t, filepath.Dir(path), "db", "db.damaged-1")
			kept, err := os.ReadFile(path + ".damaged-1")
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, kept))
		}
	}
}
