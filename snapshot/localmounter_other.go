//go:build !linux && !freebsd && !windows

package snapshot

import (
	"runtime"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

func isBind(m mount.Mount) bool { return m.Type == "bind" || m.Type == "rbind" }

// mayMount always fails: containerd mounts nothing on these systems, darwin among them.
func mayMount() error {
	return errors.Wrapf(errdefs.ErrNotImplemented, "nothing can be mounted on %s", runtime.GOOS)
}

func platformMounts(mounts []mount.Mount) ([]mount.Mount, error) { return mounts, nil }

// mountTemp is reached only with nothing to mount, thanks to mayMount.
func mountTemp(mounts []mount.Mount, _ bool) (string, func() error, error) {
	if len(mounts) > 0 {
		return "", nil, mayMount()
	}
	dir, remove, err := tempDir()
	if err != nil {
		return "", nil, err
	}
	return dir, func() error { return remove() }, nil
}
