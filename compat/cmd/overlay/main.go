// Command overlay puts this library into BuildKit, in place of its cache. It runs in the directory compat:
//
//	go run ./cmd/overlay -out DIR [-buildkit DIR|VERSION] [-library DIR]
//
// writes a directory in which `go build -overlay` makes a buildkitd that runs on the library, of BuildKit as it lies in the module cache;
//
//	go run ./cmd/overlay -fork DIR [-require VERSION] [-library DIR]
//
// changes a checkout of BuildKit. docs/buildkit.md says more about both. If BuildKit declares something else than the version that the
// alias packages are for, all differences are listed and nothing is done; -changed goes on nevertheless.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compat/overlay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errdefs.IsInvalidArgument(err):
		fmt.Fprintf(os.Stderr, "overlay: %v\n", err)
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "overlay: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("overlay", flag.ContinueOnError)
	fs.SetOutput(stderr)
	out := fs.String("out", "", "directory to write go.mod and overlay.json to")
	buildkit := fs.String("buildkit", "", "with -out: directory or version of BuildKit, "+overlay.Version+" if empty")
	fork := fs.String("fork", "", "checkout of BuildKit to change")
	require := fs.String("require", "", "with -fork: version of the library to require; empty for the checkout itself")
	standins := fs.Bool("standins", false, "with -fork: replace the modules that a proxy may not serve by stand-ins")
	library := fs.String("library", "", "checkout of the library; empty for the one around the working directory")
	changed := fs.Bool("changed", false, "go on although BuildKit declares something else than "+overlay.Version)
	describe := fs.String("describe", "", "print what the BuildKit in this directory, or of this version, declares")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errors.Wrapf(errdefs.ErrInvalidArgument, "%v", err)
	}
	switch {
	case fs.NArg() > 0:
		return errors.Wrapf(errdefs.ErrInvalidArgument, "there are no arguments, but %q is given", fs.Args())
	case *describe != "" && *out == "" && *fork == "":
		return overlay.Describe(ctx, *describe, stdout)
	case *out != "" && *fork == "" && *describe == "":
		w, err := overlay.Write(ctx, overlay.Options{Dir: *out, BuildKit: *buildkit, Library: *library, AcceptChanges: *changed})
		if err != nil {
			return err
		}
		tell(stdout, w.BuildKit, w.Removed, w.Added, w.Rewritten, w.Changes)
		fmt.Fprintf(stdout, "cd %s && go build -mod=mod -overlay %s -o bin/ github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl\n", w.Dir, w.Overlay)
		return nil
	case *fork != "" && *out == "" && *describe == "":
		c, err := overlay.Fork(ctx, overlay.ForkOptions{Dir: *fork, Library: *library, Require: *require, Standins: *standins, AcceptChanges: *changed})
		if err != nil {
			return err
		}
		tell(stdout, *fork, c.Removed, c.Added, c.Rewritten, c.Changes)
		fmt.Fprintf(stdout, "cd %s && go mod tidy && go mod vendor\n", *fork)
		return nil
	}
	return errors.Wrap(errdefs.ErrInvalidArgument, "one of -out, -fork and -describe is required")
}

func tell(w io.Writer, buildkit string, removed, added, rewritten []string, changes *overlay.ChangedError) {
	if changes != nil {
		fmt.Fprintln(w, changes)
	}
	fmt.Fprintf(w, "%s: %d files removed, %d added, %d rewritten\n", buildkit, len(removed), len(added), len(rewritten))
}
