package main

import (
	stderrors "errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// entry is what the quickstart knows of a file, a directory or a symlink.
type entry struct {
	mode    fs.FileMode
	content digest.Digest // of a file
	target  string        // of a symlink
}

// tree maps paths, relative and with slashes, to entries. It has no entry for its root.
type tree map[string]entry

// scan reads the tree in dir, without version control, skip (a path), and what is neither file,
// directory nor symlink.
func scan(dir, skip string) (tree, error) {
	t := tree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == dir:
			return nil
		case d.Name() == ".git" || path == skip:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		e, ok, err := read(path, d)
		if ok {
			t[filepath.ToSlash(rel)] = e
		}
		return err
	})
	if err != nil {
		return nil, errors.Wrapf(err, "read %s", dir)
	}
	return t, nil
}

// read describes what is at path; ok is false for what is left out.
func read(path string, d fs.DirEntry) (e entry, ok bool, err error) {
	info, err := d.Info()
	if err != nil {
		return entry{}, false, err
	}
	e.mode = info.Mode().Type() | info.Mode().Perm()
	switch info.Mode().Type() {
	case 0:
		e.mode |= 0o400
		e.content, err = fileDigest(path)
	case fs.ModeDir:
		e.mode |= 0o700 // or an ordinary user could not put anything in its copy
	case fs.ModeSymlink:
		e.mode = fs.ModeSymlink // symlinks have no permissions of their own
		e.target, err = os.Readlink(path)
	default:
		return entry{}, false, nil
	}
	return e, err == nil, err
}

func fileDigest(path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	d, err := digest.FromReader(f)
	return d, stderrors.Join(err, f.Close())
}

// paths returns the tree's paths in order, directories before what is in them.
func (t tree) paths() []string { return slices.Sorted(maps.Keys(t)) }

// String lists the tree, one entry per line. Equal trees have equal lists.
func (t tree) String() string {
	var b strings.Builder
	for _, path := range t.paths() {
		e := t[path]
		fmt.Fprintf(&b, "%s %q %s %q\n", e.mode, path, e.content, e.target)
	}
	return b.String()
}

// copyTo copies the tree's entries from src into the empty directory dst.
func (t tree) copyTo(dst, src string) error {
	for _, path := range t.paths() {
		if err := t[path].copyTo(filepath.Join(dst, path), filepath.Join(src, path)); err != nil {
			return err
		}
	}
	return nil
}

func (e entry) copyTo(dst, src string) error {
	var err error
	switch e.mode.Type() {
	case fs.ModeDir:
		err = os.Mkdir(dst, 0o700)
	case fs.ModeSymlink:
		return os.Symlink(e.target, dst)
	default:
		err = copyFile(dst, src)
	}
	if err != nil {
		return err
	}
	return os.Chmod(dst, e.mode.Perm()) // the umask does not matter then
}

func copyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return stderrors.Join(err, in.Close())
	}
	_, err = io.Copy(out, in)
	return stderrors.Join(err, out.Close(), in.Close())
}
