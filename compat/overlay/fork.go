package overlay

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// ForkOptions is what to change, and how.
type ForkOptions struct {
	// Dir is a checkout of BuildKit. It should be one of a version control system, which alone can take the changes back.
	Dir string
	// Library is a checkout of this library. Empty means the one in which the process runs.
	Library string
	// Require is the version of the library that the fork's go.mod asks for. Empty means none, but the checkout itself.
	Require string
	// Standins has go.mod replace the modules that the proxy does not serve. A fork needs it only where BuildKit itself does.
	Standins bool
	// AcceptChanges has Fork go on when the checkout declares something else than Version.
	AcceptChanges bool
}

// Changes is what Fork did to a checkout. The paths are relative to it.
type Changes struct {
	Removed, Added, Rewritten []string
	// Changes is in what it differed from Version, nil if in nothing.
	Changes *ChangedError
}

// Fork puts the alias packages into a checkout of BuildKit. Done again, it brings them up to date. What its errors mean is said at Write;
// with one of them nothing has been changed, unless a file could not be written. Neither go.sum's nor vendor's share of go.mod is in order
// afterwards: that is for `go mod tidy` and `go mod vendor`.
func Fork(ctx context.Context, opt ForkOptions) (*Changes, error) {
	if info, err := os.Stat(opt.Dir); err != nil || !info.IsDir() {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "%q is no directory", opt.Dir)
	}
	w, p, err := prepare(ctx, Options{BuildKit: opt.Dir, Library: opt.Library, AcceptChanges: opt.AcceptChanges})
	if err != nil {
		return nil, err
	}
	at := func(name string) string { return filepath.Join(w.BuildKit, filepath.FromSlash(name)) }
	for _, name := range keys(p.rewrite) {
		if err := writeFile(at(name), p.rewrite[name]); err != nil {
			return nil, err
		}
	}
	for name, file := range p.add {
		dt, err := os.ReadFile(file)
		if err != nil {
			return nil, errors.WithStack(err)
		}
		if err := writeFile(at(name), dt); err != nil {
			return nil, err
		}
	}
	for _, name := range p.remove {
		if err := os.Remove(at(name)); err != nil {
			return nil, errors.WithStack(err)
		}
	}
	if err := requireLibrary(ctx, w, opt); err != nil {
		return nil, err
	}
	return &Changes{Removed: w.Removed, Added: w.Added, Rewritten: w.Rewritten, Changes: w.Changes}, nil
}

// requireLibrary changes go.mod, and adds to go.sum what the library brings along, so that no network is needed for it.
func requireLibrary(ctx context.Context, w *Workspace, opt ForkOptions) error {
	args := []string{"mod", "edit", "-require=" + libraryModule + "@" + opt.Require, "-dropreplace=" + libraryModule}
	if opt.Require == "" {
		args = []string{"mod", "edit", "-require=" + libraryModule + "@v0.0.0", "-replace=" + libraryModule + "=" + w.Library}
	}
	if opt.Standins {
		for _, r := range standins(w.Library) {
			to := r.dir
			if to == "" {
				to = r.module + "@" + r.version
			}
			args = append(args, "-replace="+r.module+"="+to)
		}
	}
	if out, err := goCommand(ctx, w.BuildKit, "", args...).CombinedOutput(); err != nil {
		return errors.Wrapf(err, "changing go.mod: %s", out)
	}
	sums, err := mergeSums(append(sumFiles(w.Library), filepath.Join(w.BuildKit, "go.sum"))...)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(w.BuildKit, "go.sum"), sums)
}
