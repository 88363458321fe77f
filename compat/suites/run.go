package suites

import (
	"bytes"
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compat/overlay"
)

// Side is which cache BuildKit's tests run on.
type Side string

// The sides.
const (
	Stock Side = "stock"
	Ours  Side = "ours"
)

// Runner runs tests of BuildKit's.
type Runner struct {
	// Workspace is where they are built.
	Workspace *overlay.Workspace
	// Timeout is how long the tests of one package may take. 0 means 10 minutes.
	Timeout time.Duration
	// Pattern selects tests, as `go test -run` does. Empty means all.
	Pattern string
}

// The variables by which the go command's environment tells Helper what to do.
const (
	helperVariable = "LAYERCACHE_SUITES_HELPER"
	isolated       = "isolate"
)

// Run runs the tests of some packages on one side. That tests fail is no error, nor that packages do not build; Results has it. The errors
// are what Ready says, and invalid argument where there are no packages. Nothing is left behind: temporary files, mounts and network
// interfaces are gone when it returns.
func (r *Runner) Run(ctx context.Context, side Side, packages []Package) (_ *Results, err error) {
	if len(packages) == 0 {
		return nil, errors.Wrap(errdefs.ErrInvalidArgument, "no packages to test")
	}
	if err := Ready(ctx); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, errors.WithStack(err)
	}
	dir, err := os.MkdirTemp("", "suites")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, errors.WithStack(os.RemoveAll(dir))) }()
	bin, tmp := filepath.Join(dir, "bin"), filepath.Join(dir, "tmp")
	for _, d := range []string{bin, tmp} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, errors.WithStack(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(bin, registryName)); err != nil {
		return nil, errors.WithStack(err)
	}
	timeout := r.Timeout
	if timeout == 0 {
		timeout = 10 * time.Minute
	}
	// Their code is not ours to vet; and what a machine can do is no input that the go command knows of, so nothing comes from its cache.
	args := []string{"-json", "-vet=off", "-count=1", "-timeout=" + timeout.String(), "-exec=" + quote(self)}
	if r.Pattern != "" {
		args = append(args, "-run="+r.Pattern)
	}
	for _, p := range packages {
		args = append(args, "./"+p.Path)
	}
	cmd := r.Workspace.Stock(ctx, "test", args...)
	if side == Ours {
		cmd = r.Workspace.Go(ctx, "test", args...)
	}
	cmd.Env = testEnv(cmd.Env, bin, tmp)
	return read(cmd)
}

// Repeat runs the tests some times. What ended differently is flaky.
func (r *Runner) Repeat(ctx context.Context, side Side, packages []Package, times int) (*Results, error) {
	results, err := r.Run(ctx, side, packages)
	for i := 1; i < times && err == nil; i++ {
		var again *Results
		if again, err = r.Run(ctx, side, packages); err == nil {
			results.add(again)
		}
	}
	return results, err
}

// quote makes a path one word of the go command's -exec, which knows both kinds of quotes and no escapes.
func quote(path string) string {
	if strings.Contains(path, "'") {
		return `"` + path + `"`
	}
	return "'" + path + "'"
}

// testEnv is what BuildKit's tests look for in the environment, and what must not come from ours.
func testEnv(env []string, bin, tmp string) []string {
	var clean []string
	for _, v := range env {
		if !strings.HasPrefix(v, "BUILDKIT_") && !strings.HasPrefix(v, "TMPDIR=") && !strings.HasPrefix(v, "PATH=") {
			clean = append(clean, v)
		}
	}
	return append(clean, helperVariable+"="+isolated, "SKIP_INTEGRATION_TESTS=1", "TMPDIR="+tmp,
		fmt.Sprintf("PATH=%s%c%s", bin, filepath.ListSeparator, os.Getenv("PATH")))
}

// read runs a `go test -json` and reads its events.
func read(cmd *exec.Cmd) (*Results, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.WithStack(err)
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.WithStack(err)
	}
	results, rerr := Read(out)
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case rerr != nil:
		return nil, errors.WithMessagef(rerr, "%s: %v: %s", cmd, err, bytes.TrimSpace(stderr.Bytes()))
	case err != nil && !errors.As(err, &exit):
		return nil, errors.Wrap(err, "go test")
	case err != nil && len(results.Broken) == 0 && !results.has(Fail):
		return nil, errors.Wrapf(err, "go test failed, and no test did: %s", bytes.TrimSpace(stderr.Bytes()))
	}
	return results, nil
}

func (r *Results) has(how Outcome) bool {
	for _, o := range r.Outcomes {
		if o == how {
			return true
		}
	}
	return false
}

// Ready tells whether this machine can run the tests: as root on Linux, allowed to make namespaces, with git, runc, and a busybox that
// needs no libraries. What is missing is an error of category failed precondition; on other systems it is not implemented.
func Ready(ctx context.Context) error {
	for _, name := range []string{"git", "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			return errors.Wrapf(errdefs.ErrFailedPrecondition, "needs %s: %v", name, err)
		}
	}
	if _, err := findBusybox(); err != nil {
		return err
	}
	return canIsolate(ctx)
}

// Helper does what the go command or a test of BuildKit's calls this program for, and then does not return. It is to be called before
// anything else, also by the TestMain of a test that uses Runner.
func Helper() {
	switch {
	case filepath.Base(os.Args[0]) == registryName:
		exitWith(serveRegistry())
	case os.Getenv(helperVariable) == isolated:
		exitWith(isolate(os.Args[1:]))
	}
}

func exitWith(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "suites: %v\n", err)
	os.Exit(125)
}
