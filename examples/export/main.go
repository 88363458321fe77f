// Export writes a layer of a cache, with all layers below it, as an image: into a directory that other tools read, or to a registry.
//
//	go run ./examples/export -dir CACHE [-record ID] [-compression KIND [-level N] [-force]] [-o DIR [-tag TAG] | -push REFERENCE [-plain-http]]
//
// CACHE is the directory of a cache, such as examples/quickstart and examples/pull keep. Without -record its records are listed:
//
//	go run ./examples/quickstart -dir /tmp/cache
//	go run ./examples/export -dir /tmp/cache                                     # what is in it
//	go run ./examples/export -dir /tmp/cache -record ID -o /tmp/layout           # an OCI image layout
//	go run ./examples/export -dir /tmp/cache -record ID -compression zstd -force -push localhost:5000/app:v1
//	skopeo inspect oci:/tmp/layout:latest                                        # another tool's view of the second
//	go run ./examples/pull -extract -list /tmp/layout                            # and back into another cache
//
// Layers that have a blob already are exported as they are; -force converts those of another compression than asked for. The
// blobs made for an export stay in the cache, so the next one copies them only. The same record is the same image each time.
//
// A layout appears when it is complete. DIR must not exist or be empty. A layer that examples/pull has not fetched
// cannot be exported: this program has nothing to fetch it with.
//
// It works as root, with overlayfs, and as an ordinary user, with the native snapshotter. What was exported goes to standard
// output; what is under way and errors go to standard error. The exit code is 0, 1 after an error, 2 for a wrong
// command line, 130 after an interrupt.
package main

import (
	"flag"
	"io"

	"github.com/containerd/platforms"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/internal/console"
)

const usageText = `usage: export -dir CACHE [-record ID] [-compression KIND [-level N] [-force]] [-o DIR [-tag TAG] | -push REFERENCE [-plain-http]]

Without -record the records of the cache are listed.

`

var program = console.Program[settings]{Name: "export", Parse: parse, Run: run}

func main() { console.Main(program.Command) }

// parse reads a command line.
func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	var kind, platform string
	fs := flag.NewFlagSet("export", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&s.cacheDir, "dir", "", "`directory` of the cache")
	fs.StringVar(&s.record, "record", "", "`ID` of the record that is the image's top layer")
	fs.StringVar(&s.layout, "o", "", "write an OCI image layout into this `directory`")
	fs.StringVar(&s.tag, "tag", "latest", "`tag` of the image in the layout")
	fs.StringVar(&s.push, "push", "", "push to this `reference`, HOST/NAME:TAG")
	fs.BoolVar(&s.plainHTTP, "plain-http", false, "talk to the registry without TLS (a registry on this machine is talked to so anyway)")
	fs.StringVar(&kind, "compression", "gzip", "`kind` of blobs that have to be made: gzip, zstd, estargz or uncompressed")
	level := fs.Int("level", 0, "effort, in the units of the kind (default: the kind's own)")
	fs.BoolVar(&s.compression.Force, "force", false, "convert blobs of another kind, too")
	fs.StringVar(&platform, "platform", "", "`os/arch` that the image is for (default: this machine's)")
	fs.Usage = func() {
		(&console.Printer{W: stderr}).Printf("%s", usageText)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if err := s.check(fs.Args()); err != nil {
		return s, errors.WithMessage(err, "command line (-h tells more)")
	}
	var err error
	if s.compression.Type, err = codec.Parse(kind); err != nil {
		return s, err
	}
	fs.Visit(func(f *flag.Flag) {
		if f.Name == "level" {
			s.compression = s.compression.SetLevel(*level)
		}
	})
	if err := codec.CheckLevel(s.compression); err != nil {
		return s, err
	}
	s.platform = defaultPlatform()
	if platform != "" {
		if s.platform, err = platforms.Parse(platform); err != nil {
			return s, errors.Wrapf(err, "platform %q", platform)
		}
	}
	return s, nil
}

// check tells whether the flags fit together.
func (s *settings) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return errors.Errorf("unexpected argument %q", rest[0])
	case s.cacheDir == "":
		return errors.New("-dir is wanted")
	case s.layout != "" && s.push != "":
		return errors.New("either -o or -push is wanted, not both")
	case s.record == "" && (s.layout != "" || s.push != ""):
		return errors.New("-record is wanted")
	case s.record != "" && s.layout == "" && s.push == "":
		return errors.New("-o or -push is wanted")
	}
	return nil
}
