package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// machine is what the times depend on.
type machine struct {
	cpu, memory, kernel, filesystem, goVersion, commit string
	cpus                                               int
}

// describeMachine describes this machine, with the file system of a directory and the commit of the working directory.
func describeMachine(dir string) (machine, error) {
	m := machine{cpus: runtime.NumCPU(), goVersion: runtime.Version(), commit: commit()}
	m.cpu, m.memory = field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal")
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, errors.Wrap(err, "uname")
	}
	m.kernel = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:])
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, errors.Wrapf(err, "statfs %s", dir)
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		m.filesystem = "ext4"
	case unix.XFS_SUPER_MAGIC:
		m.filesystem = "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		m.filesystem = "btrfs"
	case unix.TMPFS_MAGIC:
		m.filesystem = "tmpfs (a sync costs nothing here)"
	default:
		m.filesystem = fmt.Sprintf("file system %#x", fs.Type)
	}
	return m, nil
}

// field returns what a file in /proc says after a name and a colon, "unknown" for nothing.
func field(file, name string) string {
	dt, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(dt)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// commit names the commit of the working directory, and whether Go files differ from it.
func commit() string {
	out, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	id := strings.TrimSpace(string(out))
	if exec.Command("git", "diff", "--quiet", "HEAD", "--", "..").Run() != nil {
		id += ", with changes"
	}
	return id
}
