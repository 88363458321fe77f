//go:build !linux

package cache

import (
	"runtime"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// systemPool shares nothing: overlays are Linux's. So nothing can be mounted in the pool either, and
// an empty directory in it may be removed; the system refuses to if something is mounted there after all.
func systemPool() poolSystem {
	unsupported := func() error {
		return errors.Wrapf(errdefs.ErrNotImplemented, "shared mounts on %s", runtime.GOOS)
	}
	return poolSystem{
		mayMount: unsupported,
		mount:    func([]mount.Mount, string) error { return unsupported() },
		unmount:  func(string, bool) error { return nil },
		mounted:  func(string) (bool, error) { return false, nil },
	}
}

func lockPlace(_, _ string) (unlock func(), err error) { return func() {}, nil }

func placeLocked(_, _ string) (bool, error) { return false, nil }
