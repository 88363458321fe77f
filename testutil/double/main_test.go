package double_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/log"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard) // containerd reports at length what the scripts do to it
	goleak.VerifyTestMain(m)
}

func mkdirs(dir string, names ...string) error {
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}
