package snapshot

import (
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// unmountFlags: FreeBSD has no lazy unmount; a mount in use stays, and Unmount can be called again.
const unmountFlags = 0

// isBind: nullfs is FreeBSD's bind mount.
func isBind(m mount.Mount) bool { return m.Type == "nullfs" }

// mayMount says whether this process may mount. There are no capabilities; it takes root.
func mayMount() error {
	if os.Geteuid() != 0 {
		return errors.Wrap(errdefs.ErrPermissionDenied, "the process is not root")
	}
	return nil
}

func platformMounts(mounts []mount.Mount) ([]mount.Mount, error) { return mounts, nil }
