package overlay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Options is what to build, and where.
type Options struct {
	// Dir is the directory to write to, of which nothing else should be in need. It is made if there is none.
	Dir string
	// BuildKit is the directory of BuildKit's module, or its version, which the go command then downloads unless it has it.
	// Empty means Version.
	BuildKit string
	// Library is a checkout of this library. Empty means the one in which the process runs.
	Library string
	// AcceptChanges has Write go on when BuildKit declares something else than Version.
	AcceptChanges bool
}

// Workspace is a directory in which BuildKit can be built and tested with the alias packages in it, and without.
type Workspace struct {
	// Dir is where the go command has to run.
	Dir string
	// BuildKit is where its module lies. It is not changed.
	BuildKit string
	// Library is the checkout it is built with.
	Library string
	// Overlay is the file for the go command's -overlay.
	Overlay string
	// Removed, Added and Rewritten are BuildKit's files that the overlay takes away, adds and changes, relative to its module.
	Removed, Added, Rewritten []string
	// Changes is in what BuildKit differs from Version, nil if in nothing.
	Changes *ChangedError
}

// Write makes a workspace. It refers to files of BuildKit and of the library, and so has to be made again when the sets of them
// change. A BuildKit that declares something else than Version is a *ChangedError; what is no BuildKit or no checkout of the library an
// invalid argument.
func Write(ctx context.Context, opt Options) (*Workspace, error) {
	w, p, err := prepare(ctx, opt)
	if err != nil {
		return nil, err
	}
	if w.Dir, err = filepath.Abs(opt.Dir); err != nil {
		return nil, errors.WithStack(err)
	}
	w.Overlay = filepath.Join(w.Dir, "overlay.json")
	link := filepath.Join(w.Dir, "buildkit")
	if err := os.MkdirAll(w.Dir, 0o755); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.WithStack(err)
	}
	if err := os.Symlink(w.BuildKit, link); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := w.writeOverlay(p, link); err != nil {
		return nil, err
	}
	return w, w.writeModule()
}

// prepare finds the directories and makes the plan.
func prepare(ctx context.Context, opt Options) (*Workspace, *plan, error) {
	var w Workspace
	var err error
	if w.Library, err = libraryDir(opt.Library); err != nil {
		return nil, nil, err
	}
	if w.BuildKit, err = buildkitDir(ctx, opt.BuildKit); err != nil {
		return nil, nil, err
	}
	p, err := newPlan(w.BuildKit, w.Library)
	if errors.As(err, &w.Changes) && opt.AcceptChanges {
		err = nil
	}
	if err != nil {
		return nil, nil, err
	}
	w.Removed, w.Added, w.Rewritten = p.remove, keys(p.add), keys(p.rewrite)
	return &w, p, nil
}

// writeOverlay writes the JSON, and the files that stay in part.
func (w *Workspace) writeOverlay(p *plan, link string) error {
	replace := map[string]string{}
	at := func(name string) string { return filepath.Join(link, filepath.FromSlash(name)) }
	for _, name := range p.remove {
		replace[at(name)] = ""
	}
	for name, file := range p.add {
		replace[at(name)] = file
	}
	for name, dt := range p.rewrite {
		file := filepath.Join(w.Dir, "rewritten", filepath.FromSlash(name))
		if err := writeFile(file, dt); err != nil {
			return err
		}
		replace[at(name)] = file
	}
	dt, err := json.MarshalIndent(struct{ Replace map[string]string }{replace}, "", "  ")
	if err != nil {
		return errors.WithStack(err)
	}
	return writeFile(w.Overlay, append(dt, '\n'))
}

// writeModule writes go.mod, and go.sum with what both sides know.
func (w *Workspace) writeModule() error {
	var b strings.Builder
	fmt.Fprintf(&b, "// Written by %s/compat/cmd/overlay.\nmodule layercache.invalid/overlay\n\ngo 1.26\n\n", libraryModule)
	fmt.Fprintf(&b, "require (\n\t%s v0.0.0\n\t%s %s\n)\n\n", libraryModule, buildkitModule, Version)
	fmt.Fprintf(&b, "replace (\n\t%s => %s\n\t%s => ./buildkit\n", libraryModule, quote(w.Library), buildkitModule)
	for _, r := range standins(w.Library) {
		to := r.module + " " + r.version
		if r.dir != "" {
			to = quote(r.dir)
		}
		fmt.Fprintf(&b, "\t%s => %s\n", r.module, to)
	}
	b.WriteString(")\n")
	if err := writeFile(filepath.Join(w.Dir, "go.mod"), []byte(b.String())); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(w.Dir, "overlay.go"), []byte("// Package overlay is empty: the module is for its go.mod.\npackage overlay\n")); err != nil {
		return err
	}
	sums, err := mergeSums(append(sumFiles(w.Library), filepath.Join(w.BuildKit, "go.sum"))...)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(w.Dir, "go.sum"), sums)
}

// quote makes a path of any kind one that go.mod can hold.
func quote(path string) string { return fmt.Sprintf("%q", filepath.ToSlash(path)) }

// standin is what is taken for a module: a directory, or a version of that module.
type standin struct{ module, dir, version string }

// standins are what BuildKit requires in versions that the module proxy does not serve, and what is taken instead: an older version, or a
// module of the library's that has the names and not the work.
func standins(library string) []standin {
	dir := filepath.Join(library, "compat", "standins")
	return []standin{
		{module: "github.com/moby/policy-helpers", dir: filepath.Join(dir, "policy-helpers")},
		{module: "github.com/moby/profiles/seccomp", version: "v0.2.3"},
		{module: "github.com/tonistiigi/go-actions-cache", dir: filepath.Join(dir, "go-actions-cache")},
	}
}

// sumFiles are where the library and its stand-ins keep the checksums of what they require.
func sumFiles(library string) []string {
	return []string{
		filepath.Join(library, "go.sum"), filepath.Join(library, "compat", "go.sum"),
		filepath.Join(library, "compat", "standins", "policy-helpers", "go.sum"), filepath.Join(library, "compat", "standins", "go-actions-cache", "go.sum"),
	}
}

// mergeSums returns all lines of some go.sum files.
func mergeSums(files ...string) ([]byte, error) {
	lines := map[string]bool{}
	for _, file := range files {
		dt, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.WithStack(err)
		}
		for line := range bytes.Lines(dt) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				lines[string(line)] = true
			}
		}
	}
	return []byte(strings.Join(append(keys(lines), ""), "\n")), nil
}

// Go returns a go command that runs in the workspace on BuildKit with the alias packages in it; verb is build, test, vet, list or run. The
// paths among the arguments are BuildKit's own: ./cmd/buildkitd is the package there. Paths of files do not get into what it makes, so
// that the build cache serves all workspaces. The command may add to go.mod and go.sum.
func (w *Workspace) Go(ctx context.Context, verb string, args ...string) *exec.Cmd {
	return w.command(ctx, append([]string{verb, "-trimpath", "-overlay", w.Overlay}, args...))
}

// Stock returns the same command for BuildKit as it is, built of the same modules.
func (w *Workspace) Stock(ctx context.Context, verb string, args ...string) *exec.Cmd {
	return w.command(ctx, append([]string{verb, "-trimpath"}, args...))
}

func (w *Workspace) command(ctx context.Context, args []string) *exec.Cmd {
	args = slices.Clone(args)
	for i, arg := range args {
		if rest, ok := strings.CutPrefix(arg, "./"); ok {
			args[i] = buildkitModule + "/" + rest
		}
	}
	return goCommand(ctx, w.Dir, "-mod=mod", args...)
}

// goCommand makes a go command that runs in a directory, with one more flag, and with the workspaces of others out of its way.
func goCommand(ctx context.Context, dir, flag string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "PWD="+dir, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" "+flag))
	return cmd
}

// writeFile writes a file, and the directories above it.
func writeFile(path string, dt []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.WriteFile(path, dt, 0o644))
}

// libraryDir returns a checkout of the library, with compat in it.
func libraryDir(dir string) (string, error) {
	given := dir != ""
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", errors.WithStack(err)
	}
	for {
		if modulePath(dir) == libraryModule {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if given || up == dir {
			return "", errors.Wrapf(errdefs.ErrInvalidArgument, "%s is no checkout of %s", dir, libraryModule)
		}
		dir = up
	}
}

// buildkitDir returns the directory of BuildKit's module.
func buildkitDir(ctx context.Context, from string) (string, error) {
	if from == "" {
		from = Version
	}
	dir, err := filepath.Abs(from)
	if err != nil {
		return "", errors.WithStack(err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if dir, err = download(ctx, from); err != nil {
			return "", err
		}
	}
	if path := modulePath(dir); path != buildkitModule {
		return "", errors.Wrapf(errdefs.ErrInvalidArgument, "%s is not the module %s but %q", dir, buildkitModule, path)
	}
	return dir, nil
}

// download has the go command fetch a version of BuildKit, if it has not got it, and returns where it lies.
func download(ctx context.Context, version string) (string, error) {
	cmd := goCommand(ctx, os.TempDir(), "", "mod", "download", "-json", buildkitModule+"@"+version)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if jerr := json.Unmarshal(out, &module); jerr != nil && err == nil {
		err = jerr
	}
	switch {
	case module.Error != "":
		return "", errors.Wrapf(errdefs.ErrNotFound, "BuildKit %q is no directory, and as a version: %s", version, module.Error)
	case err != nil:
		return "", errors.Wrapf(err, "downloading BuildKit %s: %s", version, bytes.TrimSpace(stderr.Bytes()))
	}
	return module.Dir, nil
}

// modulePath returns the path of the module in a directory, empty if there is none.
func modulePath(dir string) string {
	dt, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(dt)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "module" {
			return strings.Trim(f[1], `"`)
		}
	}
	return ""
}
