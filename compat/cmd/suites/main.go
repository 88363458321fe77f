// Command suites runs BuildKit's own tests on this library and on BuildKit's own cache, in the directory compat, as root:
//
//	go run ./cmd/suites [-v] [-n N] [-packages PATTERN] [-run PATTERN]
//
// compares both with each other and with the list of how they end, suites/stock.txt; with
//
//	go run ./cmd/suites -update [-n N]
//
// it writes the list and docs/buildkit-tests.md anew. For a fork of BuildKit, or another version, it compares the sides alone:
//
//	go run ./cmd/suites -buildkit DIR|VERSION [-changed]
package main

import (
	"context"
	stderrors "errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compat/overlay"
	"github.com/layercache/cache/compat/suites"
)

const (
	listPath  = "suites/stock.txt"
	tablePath = "../docs/buildkit-tests.md"
)

// errDiffer is that there are problems, which have been printed.
var errDiffer = errors.New("the sides differ, or the list is not as they are")

func main() {
	suites.Helper()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errdefs.IsInvalidArgument(err):
		fmt.Fprintf(os.Stderr, "suites: %v\n", err)
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "suites: %v\n", err)
		os.Exit(1)
	}
}

// command is one call.
type command struct {
	runner   suites.Runner
	packages *regexp.Regexp
	times    int
	update   bool
	fork     bool
	verbose  bool
	out      io.Writer
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	c := command{out: stdout}
	fs := flag.NewFlagSet("suites", flag.ContinueOnError)
	fs.SetOutput(stderr)
	buildkit := fs.String("buildkit", "", "directory or version of BuildKit, "+overlay.Version+" if empty")
	changed := fs.Bool("changed", false, "with -buildkit: go on although it declares something else than "+overlay.Version)
	fs.BoolVar(&c.update, "update", false, "write the list and its table anew")
	fs.BoolVar(&c.verbose, "v", false, "print how every test ended, and what those printed that did not pass")
	fs.IntVar(&c.times, "n", 1, "run stock so often; tests that end differently are flaky")
	fs.StringVar(&c.runner.Pattern, "run", "", "tests to run, as for go test; all if empty")
	fs.DurationVar(&c.runner.Timeout, "timeout", 0, "of one package's tests; 10 minutes if 0")
	packages := fs.String("packages", "", "pattern of the packages to test; all that have to do with the cache if empty")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errors.Wrapf(errdefs.ErrInvalidArgument, "%v", err)
	}
	c.fork = *buildkit != ""
	if c.packages, err = regexp.Compile(*packages); err != nil {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "-packages: %v", err)
	}
	switch partial := *packages+c.runner.Pattern != ""; {
	case fs.NArg() > 0:
		return errors.Wrapf(errdefs.ErrInvalidArgument, "there are no arguments, but %q is given", fs.Args())
	case c.times < 1:
		return errors.Wrapf(errdefs.ErrInvalidArgument, "-n %d", c.times)
	case c.update && (c.fork || partial):
		return errors.Wrap(errdefs.ErrInvalidArgument, "the list is of all tests of BuildKit "+overlay.Version)
	}
	dir, err := os.MkdirTemp("", "suites")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, errors.WithStack(os.RemoveAll(dir))) }()
	if c.runner.Workspace, err = overlay.Write(ctx, overlay.Options{Dir: dir, BuildKit: *buildkit, AcceptChanges: *changed}); err != nil {
		return err
	}
	return c.run(ctx)
}

func (c *command) run(ctx context.Context) error {
	all, daemons, err := suites.Select(ctx, c.runner.Workspace)
	if err != nil {
		return err
	}
	selected := slices.DeleteFunc(slices.Clone(all), func(p suites.Package) bool { return !c.packages.MatchString(p.Path) })
	stock, err := c.runner.Repeat(ctx, suites.Stock, selected, c.times)
	if err != nil {
		return err
	}
	ours, err := c.runner.Run(ctx, suites.Ours, selected)
	if err != nil {
		return err
	}
	c.print(suites.Stock, stock)
	c.print(suites.Ours, ours)
	if c.update {
		return c.write(all, daemons, stock, ours)
	}
	problems := suites.Compare(stock, ours)
	if !c.fork && c.runner.Pattern == "" {
		list, err := readList()
		if err != nil {
			return err
		}
		problems = slices.Concat(list.CheckPackages(all, daemons), list.Check(suites.Stock, stock), list.Check(suites.Ours, ours))
	}
	for _, p := range problems {
		fmt.Fprintln(c.out, p)
	}
	if len(problems) > 0 {
		return errDiffer
	}
	return nil
}

// print tells how a side ended.
func (c *command) print(side suites.Side, r *suites.Results) {
	count, seconds := map[suites.Outcome]int{}, 0.0
	for _, test := range r.Tests() {
		how := r.Outcomes[test]
		count[how]++
		if c.verbose {
			fmt.Fprintf(c.out, "%s %s\n", side, suites.Problem{Test: test, Text: string(how), Output: r.Output[test]})
		}
	}
	for _, s := range r.Seconds {
		seconds += s
	}
	fmt.Fprintf(c.out, "%s: %d packages, %d passed, %d failed, %d skipped, %d flaky, %d broken, %.0f s\n", side, len(r.Seconds),
		count[suites.Pass], count[suites.Fail], count[suites.Skip], count[suites.Flaky], len(r.Broken), seconds)
}

func readList() (*suites.List, error) {
	f, err := os.Open(listPath)
	if err != nil {
		return nil, errors.Wrap(err, "this runs in the directory compat")
	}
	defer f.Close()
	return suites.ReadList(f)
}

// write writes the list and the table; the list also if it is not valid, so that reasons can be put in.
func (c *command) write(selected, daemons []suites.Package, stock, ours *suites.Results) error {
	if len(stock.Broken)+len(ours.Broken) > 0 {
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "%q", slices.Concat(stock.Broken, ours.Broken))
	}
	list, err := readList()
	if list == nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if list == nil {
		list = &suites.List{}
	}
	list.Version = overlay.Version
	list.Update(selected, daemons, stock, ours)
	if err := writeFile(listPath, func(w io.Writer) error { _, err := list.WriteTo(w); return err }); err != nil {
		return err
	}
	if err := writeFile(tablePath, list.WriteTable); err != nil {
		return err
	}
	_, err = readList() // says what has no reason
	return err
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, errors.WithStack(f.Close())) }()
	return write(f)
}
