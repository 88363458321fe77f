// This file is added to the tests of the cache, by an overlay of the go command, when they run on a daemon; see TestSuite.
package cache_test

import (
	"context"
	"os"
	"time"

	"github.com/layercache/cache/containerd/daemon"
	"github.com/layercache/cache/testutil"
)

func init() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := daemon.NewBackend(ctx, os.Getenv(daemon.EnvAddress), os.Getenv(daemon.EnvSnapshotter))
	if err != nil {
		panic(err)
	}
	testutil.UseBackend(b)
}
