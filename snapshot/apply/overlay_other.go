//go:build !linux

package apply

import (
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// mayMark fails here, so that nobody asks for these.
var errNoOverlay = errors.Wrap(errdefs.ErrNotImplemented, "there is no overlayfs on this system")

func makeWhiteout(string) error { return errNoOverlay }

func markHolder(string) error { return errNoOverlay }

func markOpaque(string) error { return errNoOverlay }

func upperDir([]mount.Mount) string { return "" }
