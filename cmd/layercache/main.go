// Layercache looks at cache directories from outside, and gives their disk space back. A directory is one that local.Open made, or
// the worker directory of a stopped buildkitd (/var/lib/buildkit/runc-overlayfs, say).
//
//	layercache du DIR [--tree | --json] [--filter F]...     what takes up how much
//	layercache show DIR ID [--json]                         everything about one record
//	layercache check DIR [--json]                           whether the cache agrees with itself
//	layercache prune DIR [--dry-run] [limits]               delete records that nobody uses
//
// du, show, check and prune --dry-run change nothing in the directory, not a byte; prune deletes. Each wants the directory for itself:
// that another process has it open is an error. "layercache COMMAND -h" tells the flags, which may stand before or after DIR.
//
// Filters are containerd's: id, parents, description, type, inuse, mutable, immutable, shared and private, with ==, != and ~=, joined by
// commas for "and"; several flags mean "or". Sizes are bytes, or have a unit: 10GB is 10^10 bytes, 10GiB is 10*2^30.
//
// Results go to standard output, for people or, with --json, for programs; what prune deletes is one line each, with tabs in between.
// Progress, if that is a terminal, and errors go to standard error. The exit code is 0, 1 after an error or with
// findings of check, 2 for a wrong command line, 130 after an interrupt.
package main

import (
	"context"
	"flag"
	"io"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/console"
)

const usageText = `usage: layercache COMMAND DIR ...

  du DIR         what takes up how much
  show DIR ID    everything about one record
  check DIR      whether the cache agrees with itself
  prune DIR      delete records that nobody uses

DIR is a cache directory, or the worker directory of a stopped buildkitd. "layercache COMMAND -h" tells more.
`

func main() { console.Main(command) }

// streams is where a command writes.
type streams struct {
	out, err *console.Printer
	// tty is the size of the terminal that err is, nil if it is none.
	tty console.Size
}

// subcommand is one of the program's commands.
type subcommand struct {
	name string
	// args names the arguments for people, count is how many there are.
	args  string
	count int
	about string
	// flags declares the flags and returns what runs the command once they are parsed.
	flags func(fs *flag.FlagSet) func(ctx context.Context, args []string, s *streams) error
}

func subcommands() []subcommand {
	return []subcommand{duCommand(), showCommand(), checkCommand(), pruneCommand()}
}

// errFindings ends a check that found something, which it has said already.
var errFindings = errors.New("there are findings")

// command runs the program with a command line and returns its exit code. A nil tty means that stderr is no terminal.
func command(ctx context.Context, args []string, stdout, stderr io.Writer, tty console.Size) int {
	s := &streams{out: &console.Printer{W: stdout}, err: &console.Printer{W: stderr}, tty: tty}
	err := console.Quiet()
	if err == nil {
		err = dispatch(ctx, args, s)
	}
	if err == nil {
		err = s.out.Err
	}
	switch {
	case errors.Is(err, errFindings):
		return console.ExitError
	case errdefs.IsInvalidArgument(err):
		err = console.UsageError{Err: err}
	}
	return console.Ended(ctx, "layercache", err, s.err)
}

func dispatch(ctx context.Context, args []string, s *streams) error {
	if len(args) == 0 {
		s.err.Printf("%s", usageText)
		return console.UsageError{Err: errors.New("a command is wanted")}
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		s.out.Printf("%s", usageText)
		return nil
	}
	for _, c := range subcommands() {
		if c.name == args[0] {
			return c.run(ctx, args[1:], s)
		}
	}
	return console.UsageError{Err: errors.Errorf("unknown command %q (-h lists them)", args[0])}
}

func (c *subcommand) run(ctx context.Context, args []string, s *streams) error {
	fs := flag.NewFlagSet("layercache "+c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // what is wrong is said once, by the caller
	fs.Usage = func() {}
	do := c.flags(fs)
	args, err := parse(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		s.out.Printf("usage: layercache %s [FLAGS] %s\n\n%s\n\n", c.name, c.args, c.about)
		fs.SetOutput(s.out.W)
		fs.PrintDefaults()
		return nil
	case err != nil:
		return console.UsageError{Err: err}
	case len(args) != c.count:
		return console.UsageError{Err: errors.Errorf("%s wants %s, there are %d arguments (-h tells more)", c.name, c.args, len(args))}
	}
	return do(ctx, args, s)
}

// parse reads flags wherever they stand; what is after "--" is an argument.
func parse(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		if n := len(args) - len(left); len(left) == 0 || n > 0 && args[n-1] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return "" }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}
