package containerd

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"

	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/snapshot/winlayers"
)

// newDiffer makes what packs layers whose directories this process can read.
func newDiffer(cs content.Store, _ diff.Comparer) diff.Comparer {
	return winlayers.NewComparer(cs, differ.New(cs))
}
