package main

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// layout is an OCI image layout directory. Nothing is ever written to it, and no symlink leads out of it.
type layout struct {
	dir, tag string
}

// newLayout looks whether dir is a layout that can be understood.
func newLayout(dir, tag string) (*layout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	l := &layout{dir: dir, tag: tag}
	text, err := l.readFile(ocispecs.ImageLayoutFile)
	if err != nil {
		return nil, errors.Wrapf(err, "%s is no image layout", dir)
	}
	var header ocispecs.ImageLayout
	if err := json.Unmarshal(text, &header); err != nil {
		return nil, errors.Wrapf(err, "%s is no image layout: %s", dir, ocispecs.ImageLayoutFile)
	}
	if major, _, _ := strings.Cut(header.Version, "."); major != "1" {
		return nil, errors.Wrapf(errdefs.ErrNotImplemented, "image layout %s has version %q", dir, header.Version)
	}
	return l, nil
}

func (l *layout) name() string {
	if l.tag != "" {
		return l.dir + ":" + l.tag
	}
	return l.dir
}

// roots returns the entries of index.json that have the tag. Without one they are all returned, unless
// they are images of several tags.
func (l *layout) roots(context.Context) ([]ocispecs.Descriptor, error) {
	text, err := l.readFile(ocispecs.ImageIndexFile)
	if err != nil {
		return nil, errors.Wrapf(err, "image layout %s", l.dir)
	}
	var index ocispecs.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, errors.Wrapf(err, "image layout %s: %s", l.dir, ocispecs.ImageIndexFile)
	}
	var tags []string
	for _, desc := range index.Manifests {
		if tag := desc.Annotations[ocispecs.AnnotationRefName]; tag != "" && !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	known := strings.Join(tags, ", ")
	switch {
	case len(index.Manifests) == 0:
		return nil, errors.Wrapf(errdefs.ErrNotFound, "image layout %s holds no image", l.dir)
	case l.tag == "" && len(tags) > 1:
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "image layout %s holds several images, add one of the tags: %s", l.dir, known)
	case l.tag == "":
		return index.Manifests, nil
	case !slices.Contains(tags, l.tag):
		return nil, errors.Wrapf(errdefs.ErrNotFound, "image layout %s has no tag %q (it has: %s)", l.dir, l.tag, known)
	}
	return slices.DeleteFunc(index.Manifests, func(desc ocispecs.Descriptor) bool {
		return desc.Annotations[ocispecs.AnnotationRefName] != l.tag
	}), nil
}

// open opens the file of a blob.
func (l *layout) open(_ context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "digest %q: %v", desc.Digest, err)
	}
	f, err := l.openFile(path.Join(ocispecs.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	return f, errors.Wrapf(err, "blob %s", desc.Digest)
}

// openFile opens a regular file in the layout: anything else could hang the program.
func (l *layout) openFile(name string) (_ *os.File, err error) {
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, root.Close()) }()
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.Wrapf(errdefs.ErrNotFound, "%s is missing", name)
	case err != nil:
		return nil, errors.WithStack(err)
	case !info.Mode().IsRegular():
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "%s is not a regular file", name)
	}
	f, err := root.Open(name)
	return f, errors.WithStack(err)
}

func (l *layout) readFile(name string) ([]byte, error) {
	f, err := l.openFile(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err = stderrors.Join(err, f.Close()); err != nil {
		return nil, errors.Wrap(err, name)
	}
	if len(text) > maxDocument {
		return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "%s has more than %d bytes", name, maxDocument)
	}
	return text, nil
}
