// Package mountable holds the one interface that a cache and an executor must share.
package mountable

import (
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/user"
)

// Mountable is a tree that can be mounted, any number of times.
type Mountable interface {
	// Mount returns how to mount the tree, and a function to call once when the mount is gone.
	// The slice is the caller's own.
	Mount() ([]mount.Mount, func() error, error)
	// IdentityMapping is the user namespace the owners in the tree are stored in; nil for none.
	IdentityMapping() *user.IdentityMapping
}
