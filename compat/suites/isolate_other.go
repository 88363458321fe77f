//go:build !linux

package suites

import (
	"context"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

func isolate([]string) error {
	return errors.Wrapf(errdefs.ErrNotImplemented, "running BuildKit's tests on %s", runtime.GOOS)
}

func canIsolate(context.Context) error { return isolate(nil) }
