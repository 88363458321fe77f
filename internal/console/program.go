package console

import (
	"context"
	"flag"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/pkg/errors"
)

// Exit codes of programs.
const (
	ExitError     = 1
	ExitUsage     = 2
	ExitInterrupt = 130 // what a shell reports of a program that SIGINT ended
)

// Main runs a command with what the process was started with, and ends the process with the code it returns. An interrupt ends the context. A
// nil tty tells that stderr is no terminal.
func Main(command func(ctx context.Context, args []string, stdout, stderr io.Writer, tty Size) (code int)) {
	// A closed pipe is an error of the write then, and does not end the program with something mounted or half done.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr, Of(os.Stderr))
	stop()
	os.Exit(code)
}

// UsageError is a wrong command line.
type UsageError struct{ Err error }

// Error tells what is wrong.
func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e UsageError) Unwrap() error { return e.Err }

// Ended says on stderr how a program ended, unless it did well, and returns its exit code.
func Ended(ctx context.Context, name string, err error, stderr *Printer) (code int) {
	var wrong UsageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &wrong):
		code = ExitUsage
	case ctx.Err() != nil:
		stderr.Printf("%s: interrupted: %s\n", name, Printable(err.Error()))
		return ExitInterrupt
	default:
		code = ExitError
	}
	stderr.Printf("%s: %s\n", name, Printable(err.Error()))
	return code
}

// Quiet has nothing but errors logged: what the library has to say is in what it returns, and containerd warns about filesystems without
// fs-verity, which is of no interest to whoever runs a program.
func Quiet() error { return log.SetLevel("error") }

// Program does one thing.
type Program[S any] struct {
	Name string
	// Parse reads the command line; its errors are the caller's mistakes.
	Parse func(args []string, stderr io.Writer) (S, error)
	// Run does the work.
	Run func(ctx context.Context, settings S, out *Printer, v View) error
}

// Command runs the program with a command line and returns its exit code. A nil tty means that stderr is no terminal.
func (p Program[S]) Command(ctx context.Context, args []string, stdout, stderr io.Writer, tty Size) (code int) {
	settings, err := p.Parse(args, stderr)
	if err != nil {
		err = UsageError{err}
	}
	if err == nil {
		err = Quiet()
	}
	out := &Printer{W: stdout}
	if err == nil {
		err = p.Run(ctx, settings, out, NewView(stderr, tty))
	}
	if err == nil {
		err = out.Err
	}
	return Ended(ctx, p.Name, err, &Printer{W: stderr})
}

// Every calls fn at intervals, which are never if they are 0, until stop is called. No call is under way when that returns.
func Every(interval time.Duration, fn func()) (stop func()) {
	if interval <= 0 {
		return func() {}
	}
	ended := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				fn()
			}
		}
	})
	return sync.OnceFunc(func() {
		close(ended)
		running.Wait()
	})
}
