package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/testutil/machine"
)

// report is what docs/benchmarks.md is written from.
type report struct {
	machine     machine.Machine
	commit      string
	date        time.Time
	command     string
	snapshotter string
	pairs       int
	lines       []line
	growth      *growth // nil for none
}

const intro = `# Benchmarks

Written by the full run of bench/, its last section by compat/cmd/bench; do not edit. Both sides, BuildKit v0.34.1's cache packages (peer) and this library (ours), work on
the same kind of containerd parts in two directories of one disk, with the same calls in the same order, in turns. A figure is the
median per operation, the ratio that of the medians. An absolute time is only context: it depends on what a sync costs on this disk.
Counts are exact: system calls are counted by the kernel (seccomp user notification), in processes of their own.
`

const outro = `
Use counts of records are written some seconds later, in one transaction for all records, by ours; the times of Get + Release
contain that write only if it is due within a sample. The median of the counts leaves out such writes and the growth of a file.

What stands behind single rows is in benchmarks-notes.md.
`

// wholeBuilds begins the last section of the document, which compat/cmd/bench writes.
const wholeBuilds = "\n## Whole builds\n"

func (r report) markdown() string {
	var b strings.Builder
	b.WriteString(intro)
	fmt.Fprintf(&b, "\n%s- snapshotter: %s\n- commit: %s\n- date: %s\n- command: `%s` (%d pairs)\n\n",
		r.machine.Markdown(), r.snapshotter, r.commit,
		r.date.UTC().Format(time.RFC3339), strings.TrimSpace(r.command), r.pairs)
	mainTable(r.lines).markdown(&b)
	if t := countTable(r.lines); len(t.cells) > 0 {
		b.WriteString("\nCounts, per operation where nothing else is said:\n\n")
		t.markdown(&b)
	}
	b.WriteString(outro)
	if r.growth != nil {
		r.growth.markdown(&b)
	}
	return b.String()
}

// writeReport writes all of the document but the section of compat/cmd/bench, which stays if it is there.
func writeReport(path string, r report) error {
	before, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return errors.WithStack(err)
	}
	text := r.markdown()
	if _, section, ok := strings.Cut(string(before), wholeBuilds); ok {
		text += wholeBuilds + section
	}
	return errors.WithStack(os.WriteFile(path, []byte(text), 0o644))
}
