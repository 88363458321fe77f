package snapshottest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"go.uber.org/goleak"
)

// Main runs the tests of a package, as its TestMain, in a temporary directory of their own, and fails them if a
// goroutine, a mount or a file stays behind. It ends the process.
func Main(m *testing.M) {
	dir, err := privateTemp()
	if err != nil {
		fmt.Fprintln(os.Stderr, "snapshottest:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := cleanTemp(dir); err != nil {
			fmt.Fprintln(os.Stderr, "snapshottest: left behind by the tests:", err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// privateTemp makes a directory and puts all further temporary ones into it.
func privateTemp() (string, error) {
	dir, err := os.MkdirTemp("", "layercache-test-")
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the mount table shows it
		return "", err
	}
	for _, name := range []string{"TMPDIR", "TMP", "TEMP"} {
		if err := os.Setenv(name, dir); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// cleanTemp removes dir. The error lists what was found in it. With a mount in it nothing is deleted, for the
// deletion would go through the mount.
func cleanTemp(dir string) error {
	if runtime.GOOS == "linux" || runtime.GOOS == "freebsd" {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return err
		}
		if len(mounts) > 0 {
			var at []string
			for _, m := range mounts {
				at = append(at, m.Mountpoint)
			}
			return fmt.Errorf("mounts at %s", strings.Join(at, ", "))
		}
	}
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			found = append(found, path)
		}
		return err
	})
	if err1 := os.RemoveAll(dir); err == nil {
		err = err1
	}
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("files %s", strings.Join(found, ", "))
	}
	return err
}
