package snapshot

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"
)

// probeUserXattr returns nil if overlays of the snapshotter's directories can be mounted with the option userxattr, which in a user namespace
// is the only way that the kernel heeds marks of opaque directories (spec MRG-2). Linux can since 5.11.
func (sn *mergeSnapshotter) probeUserXattr(ctx context.Context) (err error) {
	ctx, work, err := sn.begin(ctx)
	if err != nil {
		return err
	}
	defer work.end(ctx)
	key := work.newKey()
	if err := sn.Prepare(ctx, key, ""); err != nil {
		return errors.Wrap(err, "preparing a snapshot to try it on")
	}
	m, err := sn.Mounts(ctx, key)
	if err != nil {
		return err
	}
	lm := LocalMounter(m)
	root, err := lm.Mount()
	if err != nil {
		return err
	}
	defer func() { err = releaseAfter(lm.Unmount, err) }()
	return tryUserXattr(root)
}

// tryUserXattr mounts an overlay of directories that it makes in root, and removes.
func tryUserXattr(root string) (err error) {
	dir, err := os.MkdirTemp(root, "userxattr")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() {
		for _, path := range []string{"merged", "work/work", "work", "upper", "lower", ""} {
			rerr := os.Remove(filepath.Join(dir, path))
			if rerr != nil && !errors.Is(rerr, os.ErrNotExist) && err == nil {
				err = errors.WithStack(rerr)
			}
		}
	}()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(path(name), 0o700); err != nil {
			return errors.WithStack(err)
		}
	}
	o := mount.Mount{Type: overlayType, Source: overlayType, Options: []string{
		"lowerdir=" + path("lower"), "upperdir=" + path("upper"), "workdir=" + path("work"), "userxattr",
	}}
	if err := o.Mount(path("merged")); err != nil {
		return errors.Wrap(err, "mounting an overlay with userxattr")
	}
	return errors.Wrap(mount.UnmountAll(path("merged"), 0), "unmounting")
}
