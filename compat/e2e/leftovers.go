package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"github.com/pkg/errors"
)

// RemoveContainers ends and removes runc's containers whose bundles are below a directory.
func RemoveContainers(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return errors.WithStack(err)
	}
	out, err := exec.Command("runc", "list", "--format", "json").Output()
	if err != nil {
		return errors.Wrap(err, "runc list")
	}
	var containers []struct{ ID, Bundle string }
	if err := json.Unmarshal(out, &containers); err != nil {
		return errors.Wrapf(err, "runc list: %s", out)
	}
	for _, c := range containers {
		if !strings.HasPrefix(c.Bundle, dir+"/") {
			continue
		}
		if err := run(exec.Command("runc", "delete", "--force", c.ID)); err != nil {
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
