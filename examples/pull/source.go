package main

import (
	"context"
	"io"
	"os"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// source is where an image comes from. Its methods may be called from several goroutines.
type source interface {
	// name is what the source calls the image.
	name() string
	// roots returns the descriptors that the name stands for: indexes and manifests.
	roots(ctx context.Context) ([]ocispecs.Descriptor, error)
	// open begins to read a blob, on behalf of ctx also later on. The reader is an io.Seeker, too, if
	// it can go back. What it delivers is not verified.
	open(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error)
}

// newSource tells by its looks what text is: what leads to a directory, and what begins like a path, is an
// image layout; anything else is the name of an image in a registry.
func newSource(text string, plainHTTP bool) (source, error) {
	if isDir(text) {
		return newLayout(text, "")
	}
	if i := strings.LastIndexByte(text, ':'); i > 0 && isDir(text[:i]) {
		return newLayout(text[:i], text[i+1:])
	}
	for _, prefix := range []string{"/", "./", "../", ".\\", "..\\", "~"} {
		if strings.HasPrefix(text, prefix) {
			return nil, errors.Errorf("there is no image layout directory %q", text)
		}
	}
	return newRegistry(text, plainHTTP)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
