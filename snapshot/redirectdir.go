package snapshot

import (
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/userns"

	"github.com/layercache/cache/internal/overlaymounts"
)

// redirectDirParameter exists where the kernel's overlayfs knows the option redirect_dir.
const redirectDirParameter = "/sys/module/overlay/parameters/redirect_dir"

// redirectDirRule is what overlay mounts say about redirect_dir. With the kernel's default of "on", a
// renamed directory leaves only a pointer to its origin in the upper directory, and whoever computes a
// layer from that directory misses its content. So it is switched off wherever the kernel lets us.
type redirectDirRule struct {
	// option is the value to set, "" for leaving the mounts as they are.
	option string
}

// processRedirectDir is the rule for this process; neither of its inputs changes while it runs.
var processRedirectDir = sync.OnceValue(func() redirectDirRule {
	_, err := os.Stat(redirectDirParameter)
	return decideRedirectDir(err == nil, userns.RunningInUserNS())
})

// decideRedirectDir is the rule as a function. In a user namespace overlay is mounted with userxattr, which
// implies that redirect_dir is off and rejects the option.
func decideRedirectDir(kernelKnowsIt, inUserNS bool) redirectDirRule {
	if !kernelKnowsIt || inUserNS {
		return redirectDirRule{}
	}
	return redirectDirRule{option: "redirect_dir=off"}
}

// apply returns mounts according to the rule. The slice given stays as it is, but the result may share
// what did not have to change.
func (r redirectDirRule) apply(mounts []mount.Mount) []mount.Mount {
	if r.option == "" {
		return mounts
	}
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type != overlayType {
			continue // fuse-overlayfs has no such option
		}
		options := slices.DeleteFunc(overlaymounts.SplitOptions(m.Options), func(o string) bool {
			return strings.HasPrefix(o, "redirect_dir=")
		})
		out[i].Options = append(options, r.option)
	}
	return out
}
