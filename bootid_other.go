//go:build !linux && !darwin && !freebsd

package cache

import (
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// systemBootID fails: a time of boot that is computed from the clock moves with it, and would have records
// dropped for nothing.
func systemBootID() (string, error) {
	return "", errors.Wrap(errdefs.ErrNotImplemented, "this system has no boot ID")
}
