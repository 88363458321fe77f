//go:build !linux

package local

import (
	"os"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/pkg/errors"
)

var errNoOverlayfs = errors.New("overlayfs exists on Linux only")

func overlayfsBackend(reason string) backend {
	return backend{name: Overlayfs, reason: reason, open: func(string) (snapshots.Snapshotter, error) {
		return nil, errors.Wrap(ErrSnapshotter, errNoOverlayfs.Error())
	}}
}

func probeOverlayfs(string) error { return errNoOverlayfs }

// canMount tells whether this process may mount. Systems without user IDs answer -1 for it.
func canMount() bool { return os.Geteuid() <= 0 }
