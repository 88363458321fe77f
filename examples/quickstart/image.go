package main

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// step is one step of the image: it turns a tree into the next.
type step struct {
	name string
	// want is the tree after the step. Together with the parent's it determines what the step
	// does, so its digest is what the step is looked up by.
	want tree
	// apply does the step in a directory that holds the tree before it.
	apply func(root string) error
}

// key is the same for the same content, in whatever process.
func (s step) key() digest.Digest {
	return digest.FromString(s.name + "\n" + s.want.String())
}

// generatedDir is where the second step puts its files.
const generatedDir = "quickstart.generated"

// imageOf returns the steps that build the image out of the sources in src.
func imageOf(src string, sources tree) []step {
	generated := map[string]string{
		"list.txt":    sources.String(),
		"scratch.txt": "the next step deletes this file\n",
	}
	withGenerated := maps.Clone(sources)
	withGenerated[generatedDir] = entry{mode: fs.ModeDir | 0o755}
	for name, text := range generated {
		withGenerated[generatedDir+"/"+name] = entry{mode: 0o644, content: digest.FromString(text)}
	}
	trimmed := maps.Clone(withGenerated)
	maps.DeleteFunc(trimmed, func(path string, e entry) bool { return unwanted(path, e) })

	return []step{
		{"sources", sources, func(root string) error { return sources.copyTo(root, src) }},
		{"generated files", withGenerated, func(root string) error { return generate(root, generated) }},
		{"without tests", trimmed, func(root string) error { return trim(root, withGenerated) }},
	}
}

// unwanted tells which files the last step deletes.
func unwanted(path string, e entry) bool {
	return !e.mode.IsDir() && (strings.HasSuffix(path, "_test.go") || path == generatedDir+"/scratch.txt")
}

func generate(root string, files map[string]string) error {
	dir := filepath.Join(root, generatedDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func trim(root string, t tree) error {
	for path, e := range t {
		if !unwanted(path, e) {
			continue
		}
		if err := os.Remove(filepath.Join(root, path)); err != nil {
			return errors.Wrap(err, "delete")
		}
	}
	return nil
}
