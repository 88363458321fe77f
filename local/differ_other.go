//go:build !linux

package local

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
)

// newDiffer makes what packs layers, by mounting what it works on: nil if this process may not mount.
func newDiffer(cs content.Store) diff.Comparer {
	if !canMount() {
		return nil
	}
	return walking.NewWalkingDiff(cs)
}
