package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pkg/errors"

	"github.com/layercache/cache/compat/overlay"
)

// Side is one of the two BuildKits.
type Side string

// Stock is BuildKit as it is, Ours is BuildKit with this library in it.
const (
	Stock Side = "stock"
	Ours  Side = "ours"
)

// Sides are both, in the order in which they take turns.
func Sides() []Side { return []Side{Stock, Ours} }

// Other returns the other side.
func (s Side) Other() Side {
	if s == Stock {
		return Ours
	}
	return Stock
}

// Programs are what is built.
type Programs struct {
	dir string
	// Box is the static program for the images, see the command box.
	Box string
}

// Buildkitd is the path of a side's daemon.
func (p *Programs) Buildkitd(s Side) string { return filepath.Join(p.dir, string(s), "buildkitd") }

// Buildctl is the path of a side's client.
func (p *Programs) Buildctl(s Side) string { return filepath.Join(p.dir, string(s), "buildctl") }

// BuildPrograms builds buildkitd and buildctl of both sides, of the same modules, and the box. They go to a directory; those
// that are there and current are left, which is for the go command to tell.
func BuildPrograms(ctx context.Context, dir string) (*Programs, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	w, err := overlay.Write(ctx, overlay.Options{Dir: filepath.Join(dir, "workspace")})
	if err != nil {
		return nil, err
	}
	p := &Programs{dir: dir, Box: filepath.Join(dir, "box")}
	for _, s := range Sides() {
		build := w.Stock
		if s == Ours {
			build = w.Go
		}
		out := filepath.Join(dir, string(s)) + string(filepath.Separator)
		if err := run(build(ctx, "build", "-o", out, "./cmd/buildkitd", "./cmd/buildctl")); err != nil {
			return nil, errors.Wrapf(err, "building BuildKit (%s)", s)
		}
	}
	box := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", p.Box, "./e2e/box")
	box.Dir = filepath.Join(w.Library, "compat")
	box.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	return p, run(box)
}

// run runs a command, whose error tells what it printed.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	return errors.Wrapf(err, "%s: %s", cmd, out)
}
