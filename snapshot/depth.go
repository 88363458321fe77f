package snapshot

import (
	"os"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/overlaymounts"
)

// maxOverlayLower is how many lower directories the kernel's overlayfs takes.
const maxOverlayLower = 500

// ErrTooManyLayers reports a tree of more layers than can be mounted: overlayfs takes 500 lower directories, whose names, after what they
// begin with in common, have to fit into one page of mount options. A Merge of it can be mounted. It is also errdefs'
// "failed precondition".
var ErrTooManyLayers = errors.WithMessage(errdefs.ErrFailedPrecondition, "more layers than overlayfs can mount")

// CheckMounts returns ErrTooManyLayers if a mount is an overlay that the kernel is going to refuse for its size, however containerd's mount
// package shortens its options; nil for any other.
func CheckMounts(mounts []mount.Mount) error {
	for _, m := range mounts {
		if m.Type != overlayType || plainlySmall(m.Options) {
			continue
		}
		lower, rest := 0, 0
		for _, o := range overlaymounts.SplitOptions(m.Options) {
			list, ok := strings.CutPrefix(o, "lowerdir=")
			if !ok {
				rest += len(o) + 1
				continue
			}
			dirs := strings.Split(list, ":")
			if lower = len(dirs); lower > maxOverlayLower {
				return errors.Wrapf(ErrTooManyLayers, "%d of at most %d lower directories", lower, maxOverlayLower)
			}
			rest += len(o) + 1 - lower*len(commonDir(dirs))
		}
		if page := os.Getpagesize(); rest > page {
			return errors.Wrapf(ErrTooManyLayers, "%d lower directories make %d bytes of mount options of at most %d", lower, rest, page)
		}
	}
	return nil
}

// plainlySmall tells without a closer look that options can be mounted, as nearly all can.
func plainlySmall(options []string) bool {
	size, colons := 0, 0
	for _, o := range options {
		size += len(o) + 1
		colons += strings.Count(o, ":")
	}
	return size <= os.Getpagesize() && colons < maxOverlayLower
}

// commonDir is the directory, with a slash at its end, that containerd changes to before it mounts, so that names may begin
// below; "" if there is none.
func commonDir(dirs []string) string {
	common := dirs[0]
	for _, d := range dirs[1:] {
		n := 0
		for n < len(common) && n < len(d) && common[n] == d[n] {
			n++
		}
		common = common[:n]
	}
	dir := path.Dir(common)
	if len(dirs) == 1 || common == "" || dir == "/" || dir == "." {
		return ""
	}
	return dir + "/"
}
