//go:build linux || freebsd

package snapshot

import (
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"
)

// mountTemp mounts mounts in a temporary directory. Bind says that they are a single bind mount, whose source
// may be a file: then the mount goes on a file.
func mountTemp(mounts []mount.Mount, bind bool) (string, func() error, error) {
	isFile := false
	if bind {
		fi, err := os.Stat(mounts[0].Source)
		if err != nil {
			return "", nil, errors.WithStack(err)
		}
		isFile = !fi.IsDir()
	}
	dir, remove, err := tempDir()
	if err != nil {
		return "", nil, err
	}
	target := dir
	if isFile {
		target = filepath.Join(dir, "file")
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			_ = remove(target) // the error that counts is the first
			return "", nil, errors.Wrap(err, "creating the mount point")
		}
	}
	unmount := func() error {
		if len(mounts) > 0 { // else asking for it would already need the privilege
			// All, since a list of mounts may have been stacked on the one path.
			if err := mount.UnmountAll(target, unmountFlags); err != nil {
				return errors.Wrapf(err, "unmounting %s", target)
			}
		}
		if isFile {
			return remove(target)
		}
		return remove()
	}
	if err := mount.All(mounts, target); err != nil {
		// Some of the list may have been mounted.
		if err1 := unmount(); err1 != nil {
			return "", nil, errors.Wrapf(err, "%s stays, as taking it away failed (%v), after", target, err1)
		}
		return "", nil, errors.WithStack(err)
	}
	return target, unmount, nil
}
