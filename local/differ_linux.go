package local

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"

	"github.com/layercache/cache/snapshot/differ"
)

// newDiffer makes what packs layers.
func newDiffer(cs content.Store) diff.Comparer { return differ.New(cs) }
