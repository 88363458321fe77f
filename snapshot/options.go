package snapshot

import (
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
)

// overlayType is the mount type of the kernel's overlayfs.
const overlayType = "overlay"

// copyMounts copies mounts so deeply that no change to the result can reach the original.
func copyMounts(mounts []mount.Mount) []mount.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		out[i].Options = slices.Clone(out[i].Options)
	}
	return out
}
