// Quickstart builds a three-step "image" out of a directory with the layer cache: the sources, a
// layer that adds generated files, and a layer that deletes some. Run it twice: the second run
// finds every step by its content and copies nothing.
//
//	go run ./examples/quickstart [-dir CACHE] [-src PATH]
//
// It works as root, with overlayfs, and as an ordinary user, with the native snapshotter.
package main

import (
	"context"
	stderrors "errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/local"
)

func main() {
	dir := flag.String("dir", "", "`directory` of the cache (default: one that stays the same for this user)")
	src := flag.String("src", "", "`path` of the sources (default: the Go module around the working directory)")
	flag.Parse()
	// containerd warns about filesystems without fs-verity, which is of no interest here.
	if err := log.SetLevel("error"); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *dir, *src)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run opens the cache, builds the image in it and shows the result.
func run(ctx context.Context, out io.Writer, dir, src string) (err error) {
	if dir, err = cacheDir(dir); err != nil {
		return err
	}
	if src, err = sourceDir(src); err != nil {
		return err
	}
	sources, err := scan(src, dir)
	if err != nil {
		return err
	}
	c, err := local.Open(ctx, dir, local.Options{})
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, c.Close()) }()
	fmt.Fprintf(out, "cache  %s (%s: %s)\n", dir, c.Parts.SnapshotterName, c.Parts.SnapshotterReason)
	fmt.Fprintf(out, "source %s (%d entries)\n\n", src, len(sources))

	top, want, err := build(ctx, out, c, imageOf(src, sources))
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, release(ctx, top)) }()
	if err := printRecords(ctx, out, c); err != nil {
		return err
	}
	if err := verify(ctx, top, want); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nverified %d entries of the mounted image against the source\n", len(want))
	return nil
}

// cacheDir makes the directory of the cache. By default it is below the user's cache directory
// or, if there is none, the one for temporary files.
func cacheDir(dir string) (string, error) {
	if dir != "" {
		return makeDir(dir)
	}
	if base, err := os.UserCacheDir(); err == nil {
		if dir, err := makeDir(filepath.Join(base, "layercache-quickstart")); err == nil {
			return dir, nil
		}
	}
	return makeDir(filepath.Join(os.TempDir(), "layercache-quickstart-"+strconv.Itoa(os.Getuid())))
}

func makeDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return realPath(dir)
}

// sourceDir is src or, by default, the closest directory with a go.mod file.
func sourceDir(src string) (string, error) {
	if src != "" {
		return realPath(src)
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return realPath(dir)
		}
		if dir == filepath.Dir(dir) {
			return "", errors.Errorf("no go.mod in or above %s: name the sources with -src", wd)
		}
	}
}

// realPath makes paths comparable.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}
