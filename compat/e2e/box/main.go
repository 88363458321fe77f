// Command box is the only program in the images that the tests build from: what a shell and a handful of tools would do, as one static file.
//
//	box write FILE TEXT        replaces a file; its directories are made
//	box append FILE TEXT       adds a line
//	box expect FILE TEXT       fails unless the file is exactly that
//	box absent FILE            fails if there is one
//	box fill FILE BYTES SEED   writes bytes that do not compress; the same seed gives the same
//	box many DIR N BYTES       makes so many files
//	box count FILE COPY        adds one to the number in a file, prints it, and writes it to another
//	box remove PATH            removes a file or a tree
//	box link OLD NEW           makes a hard link
//	box symlink TARGET NEW     makes a symbolic link
//	box hang TEXT              prints the text and waits to be killed, ten minutes at most
package main

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
)

// command is one of the things it can do.
type command struct {
	args int
	run  func(args []string) error
}

var commands = map[string]command{
	"write":   {2, func(a []string) error { return write(a[0], a[1]) }},
	"append":  {2, func(a []string) error { return appendLine(a[0], a[1]) }},
	"expect":  {2, func(a []string) error { return expect(a[0], a[1]) }},
	"absent":  {1, func(a []string) error { return absent(a[0]) }},
	"fill":    {3, fill},
	"many":    {3, many},
	"count":   {2, func(a []string) error { return count(a[0], a[1]) }},
	"remove":  {1, func(a []string) error { return os.RemoveAll(a[0]) }},
	"link":    {2, func(a []string) error { return os.Link(a[0], a[1]) }},
	"symlink": {2, func(a []string) error { return os.Symlink(a[0], a[1]) }},
	"hang":    {1, func(a []string) error { return hang(a[0]) }},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("what?")
	}
	c, ok := commands[args[0]]
	if !ok || len(args)-1 != c.args {
		return errors.Errorf("no such command, or not with so many arguments: %q", args)
	}
	return c.run(args[1:])
}

func write(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.WriteFile(file, []byte(text), 0o644))
}

func appendLine(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.WithStack(err)
	}
	return write(file, string(old)+text+"\n")
}

func expect(file, text string) error {
	dt, err := os.ReadFile(file)
	if err != nil {
		return errors.WithStack(err)
	}
	if string(dt) != text {
		return errors.Errorf("%s is %q, and not %q", file, dt, text)
	}
	return nil
}

func absent(file string) error {
	_, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Errorf("%s is there (%v)", file, err)
}

func fill(args []string) error {
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return errors.WithStack(err)
	}
	if err := os.MkdirAll(filepath.Dir(args[0]), 0o755); err != nil {
		return errors.WithStack(err)
	}
	f, err := os.Create(args[0])
	if err != nil {
		return errors.WithStack(err)
	}
	var seed [32]byte
	copy(seed[:], args[2])
	if _, err := io.CopyN(f, rand.NewChaCha8(seed), size); err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(f.Close())
}

func many(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return errors.WithStack(err)
	}
	for i := range n {
		name := filepath.Join(args[0], fmt.Sprintf("%02d", i%16), fmt.Sprintf("file%05d", i))
		if err := fill([]string{name, args[2], name}); err != nil {
			return err
		}
	}
	return nil
}

func count(file, sum string) error {
	dt, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.WithStack(err)
	}
	n := 0
	if len(dt) > 0 {
		if n, err = strconv.Atoi(strings.TrimSpace(string(dt))); err != nil {
			return errors.WithStack(err)
		}
	}
	text := strconv.Itoa(n + 1)
	fmt.Println(text)
	if err := write(file, text); err != nil {
		return err
	}
	return write(sum, text)
}

func hang(text string) error {
	fmt.Println(text)
	<-time.After(10 * time.Minute)
	return errors.New("nobody came")
}
