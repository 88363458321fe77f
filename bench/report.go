package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// machine is what the figures depend on.
type machine struct {
	cpu        string
	cpus       int
	memory     string
	kernel     string
	filesystem string
	goVersion  string
}

// describeMachine describes this machine; dir is where the work was done.
func describeMachine(dir string) (machine, error) {
	m := machine{cpu: "unknown", cpus: runtime.NumCPU(), memory: "unknown", goVersion: runtime.Version()}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, errors.Wrap(err, "uname")
	}
	m.kernel = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:])
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, errors.Wrapf(err, "statfs %s", dir)
	}
	m.filesystem = filesystemName(int64(fs.Type))
	if v := procField("/proc/cpuinfo", "model name"); v != "" {
		m.cpu = v
	}
	if v := procField("/proc/meminfo", "MemTotal"); v != "" {
		m.memory = v
	}
	return m, nil
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

// report is what docs/benchmarks.md is written from.
type report struct {
	machine     machine
	commit      string
	date        time.Time
	command     string
	snapshotter string
	pairs       int
	lines       []line
}

const intro = `# Benchmarks

Written by the full run of bench/; do not edit. Both sides, BuildKit v0.34.1's cache packages (peer) and this library (ours), work on
the same kind of containerd parts in two directories of one disk, with the same calls in the same order, in turns. A figure is the
median per operation, the ratio that of the medians. An absolute time is only context: it depends on what a sync costs on this disk.
Counts are exact: system calls are counted by the kernel (seccomp user notification), in processes of their own.
`

const outro = `
Use counts of records are written some seconds later, in one transaction for all records, by ours; the times of Get + Release
contain that write only if it is due within a sample. The median of the counts leaves out such writes and the growth of a file.

What stands behind single rows is in benchmarks-notes.md.
`

func (r report) markdown() string {
	var b strings.Builder
	b.WriteString(intro)
	m := r.machine
	fmt.Fprintf(&b, "\n- machine: %d x %s, %s of memory\n- system: %s, %s, %s\n- snapshotter: %s\n- commit: %s\n- date: %s\n- command: `%s` (%d pairs)\n\n",
		m.cpus, m.cpu, m.memory, m.kernel, m.filesystem, m.goVersion, r.snapshotter, r.commit,
		r.date.UTC().Format(time.RFC3339), strings.TrimSpace(r.command), r.pairs)
	mainTable(r.lines).markdown(&b)
	if t := countTable(r.lines); len(t.cells) > 0 {
		b.WriteString("\nCounts, per operation where nothing else is said:\n\n")
		t.markdown(&b)
	}
	b.WriteString(outro)
	return b.String()
}

func writeReport(path string, r report) error {
	return errors.WithStack(os.WriteFile(path, []byte(r.markdown()), 0o644))
}
