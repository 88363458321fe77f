package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/pkg/errors"
)

// What importing a package may drag in (row 19).
const (
	maxImports      = 120
	maxLocalImports = 260
)

// importsRow is row 19: what an engine imports with the cache. For the peer that is its package cache, which has no counterpart of local.
func importsRow() row {
	return row{19, "imports", func(ctx context.Context, e *env) ([]line, error) {
		peer, err := importGraph(ctx, "github.com/moby/buildkit/cache")
		if err != nil {
			return nil, err
		}
		ours, err := importGraph(ctx, "github.com/layercache/cache")
		if err != nil {
			return nil, err
		}
		local, err := importGraph(ctx, "github.com/layercache/cache/local")
		if err != nil {
			return nil, err
		}
		e.logf("  peer %d, ours %d, with local %d", peer, ours, local)
		const unit = "packages"
		return []line{
			{
				Work: "non-stdlib packages in the import graph of the root package, linux/amd64", Unit: unit,
				Peer: float64(peer), Ours: float64(ours), MaxOurs: maxImports, Target: fmt.Sprintf("<= %d", maxImports),
			},
			{
				Work: "the same of local (for the peer again package cache)", Unit: unit,
				Peer: float64(peer), Ours: float64(local), MaxOurs: maxLocalImports, Target: fmt.Sprintf("<= %d", maxLocalImports),
			},
		}, nil
	}}
}

// importGraph counts the packages outside of the standard library that building pkg needs, pkg included. Both sides are resolved in
// this module, that is with the same versions of what they have in common.
func importGraph(ctx context.Context, pkg string) (packages int, err error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = errors.Wrap(err, strings.TrimSpace(string(exit.Stderr)))
		}
		return 0, errors.Wrapf(err, "listing what %s imports", pkg)
	}
	return len(strings.Fields(string(out))), nil
}
