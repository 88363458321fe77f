package e2e

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"github.com/pkg/errors"
)

// runcRoot is where runc keeps its books when root does not say otherwise, as BuildKit does not: a directory for each container.
const runcRoot = "/run/runc"

// RemoveContainers ends and removes runc's containers whose bundles are below a directory. Others, which may come and go meanwhile, are
// let alone.
func RemoveContainers(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return errors.WithStack(err)
	}
	known, err := os.ReadDir(runcRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.WithStack(err)
	}
	for _, c := range known {
		out, err := exec.Command("runc", "state", c.Name()).Output()
		if err != nil {
			continue // it is gone, or has not begun; none of those that a dead daemon has left begins any more
		}
		var state struct{ Bundle string }
		if err := json.Unmarshal(out, &state); err != nil {
			return errors.Wrapf(err, "runc state %s: %s", c.Name(), out)
		}
		if !strings.HasPrefix(state.Bundle, dir+"/") {
			continue
		}
		if err := run(exec.Command("runc", "delete", "--force", c.Name())); err != nil {
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
