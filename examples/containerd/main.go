// Containerd keeps the layers of a directory tree in a containerd daemon: one layer per entry of the tree, and a merge of all. Run it
// twice: the second run finds each layer by its content. With -prune it deletes everything that it made, and nothing else.
//
//	cd examples/containerd && go run . [-address SOCKET] [-namespace NAME] [-snapshotter NAME] [-dir RECORDS] [-prune] SOURCE
//
// It has to run where the daemon does, with its rights.
package main

import (
	"context"
	stderrors "errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/pkg/errors"

	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/usage"
)

// settings are what the command line says.
type settings struct {
	address, dir, source string
	prune                bool
	opts                 containerd.Options
}

func main() {
	var s settings
	flag.StringVar(&s.address, "address", defaults.DefaultAddress, "`socket` of containerd")
	flag.StringVar(&s.opts.Namespace, "namespace", containerd.DefaultNamespace, "`name` of a namespace of containerd")
	flag.StringVar(&s.opts.Snapshotter, "snapshotter", "", "`name` of a snapshotter (default: containerd's)")
	flag.StringVar(&s.dir, "dir", "layercache", "`directory` of the records")
	flag.BoolVar(&s.prune, "prune", false, "delete everything in the end")
	flag.Parse()
	s.source = flag.Arg(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, s settings) (err error) {
	if s.source == "" {
		return errors.New("which directory? Give it as the argument")
	}
	daemon, err := client.New(s.address)
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, daemon.Close()) }()
	c, err := containerd.Open(ctx, daemon, s.dir, s.opts)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, c.Close()) }() // before the client
	fmt.Fprintf(out, "daemon  %s, namespace %s, snapshotter %s\n", s.address, c.Parts.Namespace, c.Parts.SnapshotterName)
	fmt.Fprintf(out, "reach   %s: %s\n\n", c.Parts.Reach, c.Parts.ReachReason)

	if err := keep(ctx, out, c, s.source); err != nil {
		return err
	}
	if !s.prune {
		return nil
	}
	return prune(ctx, out, c)
}

// prune deletes every record that nobody uses. What others have in the namespace stays.
func prune(ctx context.Context, out io.Writer, c *containerd.Cache) error {
	deleted := make(chan usage.Info)
	done := make(chan int64)
	go func() {
		var bytes int64
		for info := range deleted {
			bytes += info.Size
		}
		done <- bytes
	}()
	err := c.Prune(ctx, deleted, usage.PruneInfo{All: true})
	close(deleted)
	fmt.Fprintf(out, "pruned  %d bytes, %d records are left\n", <-done, c.Stats().Records)
	return err
}
