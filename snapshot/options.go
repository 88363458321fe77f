package snapshot

import (
	"slices"
	"strings"

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

// splitOptions returns a fresh list with one mount option per element. Elements may hold several, since all
// of them are joined with commas in the end; a comma that is escaped or between quotes belongs to its option.
func splitOptions(options []string) []string {
	out := make([]string, 0, len(options)+1) // one more, for what the caller adds
	for _, o := range options {
		for {
			head, tail, more := cutOption(o)
			if head != "" || !more {
				out = append(out, head)
			}
			if !more {
				break
			}
			o = tail
		}
	}
	return out
}

// cutOption cuts s at its first comma that separates options.
func cutOption(s string) (head, tail string, more bool) {
	if !strings.Contains(s, ",") {
		return s, "", false
	}
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case ',':
			if !quoted {
				return s[:i], s[i+1:], true
			}
		}
	}
	return s, "", false
}
