// Command bench measures whole builds: by BuildKit as it is, and by BuildKit with this library in it, in turns and on one disk. It runs in
// the directory compat, as root, with runc:
//
//	go run ./cmd/bench [-n N] [-quick] [-snapshotter NAME] [-dir D] [-programs D] [-out FILE]
//
// The table goes to stdout, and with -out into the last section of a document. Both daemons run all the time; before each sample the
// cache is emptied, or the directory is as it was.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compat/e2e"
)

type flags struct {
	pairs       int
	quick       bool
	snapshotter string
	dir         string
	programs    string
	out         string
}

func main() {
	if err := log.SetLevel("error"); err != nil {
		panic(err) // the level is a constant
	}
	var f flags
	flag.IntVar(&f.pairs, "n", 5, "how many `pairs` of samples to take of each work")
	flag.BoolVar(&f.quick, "quick", false, "little work, once: the times mean nothing")
	flag.StringVar(&f.snapshotter, "snapshotter", e2e.Overlayfs, "overlayfs or native")
	flag.StringVar(&f.dir, "dir", os.TempDir(), "work below this `directory`, which decides on the disk that is measured")
	flag.StringVar(&f.programs, "programs", "", "keep the programs in this `directory`; empty builds them for this run")
	flag.StringVar(&f.out, "out", "", "write the section \"Whole builds\" of this `file`, of ../docs/benchmarks.md for that of the project")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, f, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags, args []string) error {
	if len(args) > 0 {
		return errors.Errorf("unexpected argument %q", args[0])
	}
	if f.pairs < 1 {
		return errors.Errorf("-n %d is not positive", f.pairs)
	}
	if os.Geteuid() != 0 {
		return errors.New("buildkitd needs root here")
	}
	if f.out != "" {
		if _, err := os.Stat(f.out); err != nil { // before an hour of work that has nowhere to go
			return errors.WithStack(err)
		}
	}
	b, err := newBench(ctx, f)
	if err != nil {
		return err
	}
	lines, err := b.measureAll(ctx)
	if cerr := b.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	r := report{machine: b.machine, commit: b.commit, date: time.Now(), snapshotter: f.snapshotter, pairs: b.pairs, lines: lines}
	r.command = "cd compat && go run ./cmd/bench " + strings.Join(os.Args[1:], " ")
	fmt.Print(r.table())
	if f.out == "" {
		return nil
	}
	return r.write(f.out)
}
