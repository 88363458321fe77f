package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/pkg/errors"
)

// EnvProgram names an environment variable with the path of a containerd to use, in place of one that is built.
const EnvProgram = "LAYERCACHE_CONTAINERD"

var built struct {
	sync.Mutex
	dir, program string
}

// Main is for TestMain: it runs the tests and removes the program that Start built for them.
func Main(m *testing.M) int {
	defer func() {
		built.Lock()
		defer built.Unlock()
		if built.dir != "" {
			_ = os.RemoveAll(built.dir) // it is in the directory for temporary files
		}
	}()
	return m.Run()
}

// program returns the path of containerd, which is built when it is needed first.
func program() (string, error) {
	if name := os.Getenv(EnvProgram); name != "" {
		return name, nil
	}
	built.Lock()
	defer built.Unlock()
	if built.program != "" {
		return built.program, nil
	}
	dir, err := os.MkdirTemp("", "layercache-containerd-")
	if err != nil {
		return "", errors.WithStack(err)
	}
	name := filepath.Join(dir, "containerd")
	cmd := exec.Command("go", "build", "-o", name, "./cmd/containerd")
	cmd.Dir = sources()
	out, err := cmd.CombinedOutput()
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", errors.Wrapf(err, "building containerd: %s", out)
	}
	built.dir, built.program = dir, name
	return name, nil
}

// sources is the directory of this file: only there does go.mod have all that the program needs.
func sources() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}
