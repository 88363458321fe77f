package machine

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Machine is what figures depend on. What cannot be told is "unknown".
type Machine struct {
	CPU        string
	CPUs       int
	Memory     string
	Kernel     string
	Filesystem string
	GoVersion  string
}

// Describe describes this machine; dir is where the work was done.
func Describe(dir string) (Machine, error) {
	m := Machine{CPU: "unknown", CPUs: runtime.NumCPU(), Memory: "unknown", GoVersion: runtime.Version()}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, errors.Wrap(err, "uname")
	}
	m.Kernel = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:])
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, errors.Wrapf(err, "statfs %s", dir)
	}
	m.Filesystem = filesystemName(int64(fs.Type))
	if v := procField("/proc/cpuinfo", "model name"); v != "" {
		m.CPU = v
	}
	if v := procField("/proc/meminfo", "MemTotal"); v != "" {
		m.Memory = v
	}
	return m, nil
}

// Markdown is a list of what m says, of two lines.
func (m Machine) Markdown() string {
	return fmt.Sprintf("- machine: %d x %s, %s of memory\n- system: %s, %s, %s\n", m.CPUs, m.CPU, m.Memory, m.Kernel, m.Filesystem, m.GoVersion)
}

func filesystemName(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs (a sync costs nothing here)"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	}
	return fmt.Sprintf("type %#x", magic)
}

// procField returns the value after the colon of the first line that begins with key, "" for none.
func procField(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Commit names the commit of the working directory, and whether Go files differ from it.
func Commit() string {
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
