package main

import (
	"context"
	stderrors "errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/snapshot"
)

// listArchives lists what is in each layer's archive, which is fetched for it but not unpacked.
func (p *pull) listArchives(ctx context.Context) error {
	for i, ref := range p.layers {
		names, err := ref.FileList(ctx, nil)
		if err != nil {
			return errors.Wrapf(err, "list layer %d", i+1)
		}
		for _, name := range names {
			p.out.Printf("%d/%d  %s\n", i+1, len(p.layers), console.Name(name))
		}
	}
	return p.out.Err
}

// listTree mounts a ref read-only and lists its files. Without the privilege to mount, the directory is the
// snapshotter's own, in which nothing must be changed.
func listTree(ctx context.Context, out *console.Printer, ref cache.ImmutableRef) (err error) {
	mountable, err := ref.Mount(ctx, true, nil)
	if err != nil {
		return errors.Wrap(err, "mount")
	}
	mounter := snapshot.LocalMounter(mountable)
	root, err := mounter.Mount()
	if err != nil {
		return errors.Wrap(err, "mount")
	}
	defer func() { err = stderrors.Join(err, mounter.Unmount()) }()
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if stop := ctx.Err(); stop != nil {
			return errors.WithStack(stop)
		}
		name, relErr := filepath.Rel(root, path)
		switch {
		case relErr != nil:
			return errors.WithStack(relErr)
		case errors.Is(err, fs.ErrPermission) && d != nil:
			out.Printf("%-11s %12s  %s (cannot be read)\n", "", "", console.Name(name))
			return out.Err
		case err != nil:
			return errors.WithStack(err)
		case path == root:
			return nil
		}
		return printEntry(out, path, name, d)
	})
}

func printEntry(out *console.Printer, path, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return errors.WithStack(err)
	}
	size, target := info.Size(), ""
	switch info.Mode().Type() {
	case 0:
	case fs.ModeSymlink:
		text, err := os.Readlink(path)
		if err != nil {
			return errors.WithStack(err)
		}
		target = " -> " + console.Name(text)
	default:
		size = 0 // what a directory occupies depends on the filesystem
	}
	out.Printf("%-11s %12d  %s%s\n", info.Mode(), size, console.Name(filepath.ToSlash(name)), target)
	return out.Err
}
