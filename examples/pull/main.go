// Pull puts an image into a layer cache without fetching it, and fetches and unpacks its layers when they
// are asked for.
//
//	go run ./examples/pull [-cache DIR] [-platform OS/ARCH] [-extract] [-list] [-plain-http] SOURCE
//
// SOURCE is the path of an OCI image layout, with a colon and a tag if it holds more than one image, or the name
// of an image in a registry that lets anybody pull:
//
//	go run ./examples/pull debian:stable-slim                  # what would have to be fetched
//	go run ./examples/pull -extract debian:stable-slim         # fetch and unpack it; a second time there is nothing to do
//	go run ./examples/pull -extract -list debian:stable-slim   # and list the mounted image
//	go run ./examples/pull -list ./layout:v1                   # list each layer's archive, which unpacks nothing
//
// It works as root, with overlayfs, and as an ordinary user, with the native snapshotter; then all files belong to
// that user. What the image is goes to standard output; what is under way and errors go to standard error.
// The exit code is 0, 1 after an error, 2 for a wrong command line, 130 after an interrupt.
package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/platforms"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/console"
)

const usageText = `usage: pull [-cache DIR] [-platform OS/ARCH] [-extract] [-list] [-plain-http] SOURCE

SOURCE is the path of an OCI image layout (PATH or PATH:TAG) or the name of an image in a registry.

`

var program = console.Program[settings]{Name: "pull", Parse: parse, Run: run}

func main() { console.Main(program.Command) }

// parse reads a command line.
func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	var platform string
	fs := flag.NewFlagSet("pull", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&s.cacheDir, "cache", "", "`directory` of the cache (default: one that stays the same for this user)")
	fs.StringVar(&platform, "platform", "", "`os/arch` of an image for several (default: this machine's)")
	fs.BoolVar(&s.extract, "extract", false, "fetch and unpack all layers")
	fs.BoolVar(&s.list, "list", false, "list the files: with -extract those of the mounted image, else those in each layer's archive")
	fs.BoolVar(&s.plainHTTP, "plain-http", false, "talk to the registry without TLS (a registry on this machine is talked to so anyway)")
	fs.Usage = func() {
		(&console.Printer{W: stderr}).Printf("%s", usageText)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if fs.NArg() != 1 || fs.Arg(0) == "" {
		return s, errors.Errorf("one SOURCE is wanted, there are %d arguments (-h tells more)", fs.NArg())
	}
	s.source = fs.Arg(0)
	s.platform = defaultPlatform()
	if platform != "" {
		var err error
		if s.platform, err = platforms.Parse(platform); err != nil {
			return s, errors.Wrapf(err, "platform %q", platform)
		}
	}
	return s, nil
}

// cacheDir makes the directory of the cache. By default it is below the user's cache directory
// or, if there is none, the one for temporary files.
func cacheDir(dir string) (string, error) {
	if dir != "" {
		return makeDir(dir)
	}
	if base, err := os.UserCacheDir(); err == nil {
		if dir, err := makeDir(filepath.Join(base, "layercache-pull")); err == nil {
			return dir, nil
		}
	}
	return makeDir(filepath.Join(os.TempDir(), "layercache-pull-"+strconv.Itoa(os.Getuid())))
}

func makeDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", errors.WithStack(err)
	}
	return filepath.Abs(dir)
}
