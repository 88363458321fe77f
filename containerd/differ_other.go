//go:build !linux

package containerd

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
)

// newDiffer makes what packs layers. The library's own is for Linux.
func newDiffer(_ content.Store, remote diff.Comparer) diff.Comparer { return remote }

// newApplier makes what unpacks layers: the daemon does, everywhere but on Linux.
func newApplier(_ content.Store, remote diff.Applier, _ string) diff.Applier { return remote }
