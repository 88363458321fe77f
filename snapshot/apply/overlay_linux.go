package apply

import (
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// makeWhiteout marks that what has this name below is deleted.
func makeWhiteout(path string) error {
	return errors.Wrap(unix.Mknod(path, unix.S_IFCHR, 0), "marking a deletion")
}

// markHolder tells overlayfs that a directory may hold whiteouts. The kernel knows that of directories which it merges with others;
// of any other one, should no lower layer have it for instance, it would show them to whoever lists it. The empty attribute, which
// says "copied up, and nobody knows from where", makes it look.
func markHolder(dir string) error {
	return errors.Wrap(unix.Lsetxattr(dir, "trusted.overlay.origin", nil, 0), "marking a directory with deletions")
}

// markOpaque marks that nothing below a directory shows through.
func markOpaque(dir string) error {
	return unix.Lsetxattr(dir, "trusted.overlay.opaque", []byte{'y'}, 0)
}

// upperDir returns the directory that takes what is written to an overlay, "" if mounts are something else or the
// overlay has options that could give marks another meaning.
func upperDir(mounts []mount.Mount) (upper string) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return ""
	}
	for _, o := range mounts[0].Options {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case strings.Contains(o, ","), strings.Contains(o, `\`):
			return "" // several in one, or escaped
		case key == "upperdir":
			upper = value
		case key == "lowerdir", key == "workdir", o == "index=off", o == "redirect_dir=off", o == "metacopy=off", o == "xino=off", o == "rw":
		default:
			return ""
		}
	}
	return upper
}
