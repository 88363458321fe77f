// Package containerd puts containerd's snapshotter, content store and lease manager into one namespace of
// containerd, for a cache that neither knows nor cares in which one it lives.
//
// The wrappers set the namespace of every call and leave the context alone otherwise, so that whatever else
// travels in it arrives: a lease, a deadline, a transaction of containerd's metadata store. They close
// nothing by themselves and are as safe for concurrent use as what they wrap.
//
// Deleting is forbidden. A snapshot or blob may be held by records, images and leases that the caller does not
// know of; it goes when the last lease on it is gone and containerd collects garbage.
package containerd

import (
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// errForbidden is what deleting directly ends with; its category is permission denied.
func errForbidden(what, key string) error {
	return errors.Wrapf(errdefs.ErrPermissionDenied, "deleting %s %q directly is forbidden, it goes with its last lease", what, key)
}
