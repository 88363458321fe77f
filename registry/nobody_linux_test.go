package registry

import (
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/need"
)

// asNobody are the tests that an ordinary user must be able to run, on the native snapshotter.
var asNobody = []string{
	"TestModel", "TestLazyPull", "TestOnDemand", "TestSharedLayers", "TestEitherCompression", "TestVanishedIsPulledAgain",
	"TestForgedDiffID", "TestCallerGoes", "TestTogether", "TestManyImages",
}

// Design section 6b: whole images are pulled and extracted without any privilege. The tests above run once more in a process of
// user nobody, which skips what is on overlayfs and nothing else.
func TestAsNobody(t *testing.T) {
	need.Root(t)
	nobody, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	tmp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o700))
	require.NoError(t, os.Chown(tmp, int(uid), int(gid)))
	binary := copyOfTest(t, dir) // what go test made is out of nobody's sight

	cmd := exec.CommandContext(t.Context(), binary, "-test.v", "-test.run", "^("+strings.Join(asNobody, "|")+")$")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + tmp, "TMPDIR=" + tmp}
	for _, name := range []string{"LAYERCACHE_IMAGES", "LAYERCACHE_IMAGES_FROM"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range asNobody {
		require.Contains(t, string(out), "\n--- PASS: "+name+" (")
	}
	for line := range strings.SplitSeq(string(out), "\n") {
		if name, skipped := strings.CutPrefix(strings.TrimSpace(line), "--- SKIP: "); skipped {
			require.Contains(t, name, "/overlayfs (")
		}
	}
}

// copyOfTest copies the binary that is running.
func copyOfTest(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	from, err := os.Open(self)
	require.NoError(t, err)
	defer func() { require.NoError(t, from.Close()) }()
	name := filepath.Join(dir, "registry.test")
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	return name
}
