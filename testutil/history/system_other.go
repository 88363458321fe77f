//go:build !linux && !darwin

package history

import (
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/testutil/tree"
)

func setTime(path string, t time.Time) error { return os.Chtimes(path, t, t) }

func makeNode(_ string, kind tree.Kind, _, _ uint32) error {
	return errors.Wrapf(errdefs.ErrNotImplemented, "making a %s on this system", kind)
}

func unsupported(error) bool { return true }

func noAttribute(error) bool { return true }

func otherDevice(error) bool { return false }
