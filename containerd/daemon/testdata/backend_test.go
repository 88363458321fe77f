// This file is added to package cache_test, by an overlay of the go command, when the suite runs on a daemon; see TestSuite.
package cache_test

import (
	"os"

	"github.com/layercache/cache/containerd/daemon"
	"github.com/layercache/cache/testutil"
)

func init() {
	testutil.UseBackend(&daemon.Backend{Address: os.Getenv(daemon.EnvAddress), Snapshotter: os.Getenv(daemon.EnvSnapshotter)})
}
