package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"github.com/pkg/errors"
)

// containersDir is where, below a daemon's directory, runc keeps its books: a directory for each container.
const containersDir = "containers"

// writeRunc writes a program into a daemon's directory that is runc with its books there. BuildKit cannot tell it to, and where all of a
// machine's are, nobody can tell whose container one is that was being made when its daemon died.
func writeRunc(dir string) (program string, err error) {
	program = filepath.Join(dir, "runc")
	books := "'" + strings.ReplaceAll(filepath.Join(dir, containersDir), "'", `'\''`) + "'"
	return program, errors.WithStack(os.WriteFile(program, []byte("#!/bin/sh\nexec runc --root "+books+" \"$@\"\n"), 0o700))
}

// RemoveContainers ends and removes the containers of a daemon that has ended, by its directory; those that were being made, too.
func RemoveContainers(dir string) error {
	books := filepath.Join(dir, containersDir)
	known, err := os.ReadDir(books)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.WithStack(err)
	}
	for _, c := range known {
		if err := run(exec.Command("runc", "--root", books, "delete", "--force", c.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Mounts lists what is mounted below a directory.
func Mounts(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	found, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, errors.WithStack(err)
	}
	var points []string
	for _, m := range found {
		points = append(points, m.Mountpoint)
	}
	return points, nil
}

// Unmount takes away what is mounted below a directory.
func Unmount(dir string) error {
	points, err := Mounts(dir)
	if err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0; i-- { // what was mounted last is on top
		if err := mount.UnmountAll(points[i], 0); err != nil {
			return errors.Wrapf(err, "unmounting %s", points[i])
		}
	}
	return nil
}
