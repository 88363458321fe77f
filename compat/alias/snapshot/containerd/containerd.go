// Package containerd stands in for BuildKit's package of that path: its names, on the library.
package containerd

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"

	"github.com/layercache/cache/snapshot"
	lib "github.com/layercache/cache/snapshot/containerd"
)

// Store is a content store in a namespace.
type Store = lib.Store

// NewContentStore puts a content store into a namespace.
func NewContentStore(store content.Store, ns string) *Store { return lib.NewContentStore(store, ns) }

// NSSnapshotter puts a snapshotter into a namespace.
func NSSnapshotter(ns string, s snapshots.Snapshotter) snapshots.Snapshotter {
	return lib.NSSnapshotter(ns, s)
}

// NewSnapshotter puts a snapshotter into a namespace and makes it one for the cache.
func NewSnapshotter(name string, s snapshots.Snapshotter, ns string, idmap *user.IdentityMapping) snapshot.Snapshotter {
	return lib.NewSnapshotter(name, s, ns, idmap)
}
