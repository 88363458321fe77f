package main

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// layout is an OCI image layout that is written beside the place where it is wanted, and moved there when it is complete.
type layout struct {
	dir, tag string
	// work is where it is written; empty once it was moved.
	work string
}

// newLayout begins a layout. dir must not exist or be empty.
func newLayout(dir, tag string) (_ *layout, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, errors.WithStack(err)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return nil, errors.Wrapf(errdefs.ErrAlreadyExists, "directory %s is not empty", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, errors.WithStack(err)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".tmp-")
	return &layout{dir: dir, tag: tag, work: work}, errors.WithStack(err)
}

func (l *layout) name() string { return l.dir + ":" + l.tag }

// blob writes the file of a blob.
func (l *layout) blob(ctx context.Context, desc ocispecs.Descriptor, from content.Provider) (err error) {
	path := filepath.Join(l.work, ocispecs.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errors.WithStack(err)
	}
	ra, err := from.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, ra.Close()) }()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, f.Close()) }()
	verifier := desc.Digest.Verifier()
	n, err := io.Copy(io.MultiWriter(f, verifier), io.LimitReader(whileWanted{ctx.Err, content.NewReader(ra)}, desc.Size+1))
	switch {
	case err != nil:
		return errors.WithStack(err)
	case n != desc.Size || !verifier.Verified():
		return errors.Wrapf(errdefs.ErrDataLoss, "the cache's blob is damaged: %d bytes instead of %d, or others", n, desc.Size)
	}
	return errors.WithStack(f.Sync())
}

// whileWanted ends a copy with its context.
type whileWanted struct {
	ended func() error
	from  io.Reader
}

// Read implements io.Reader.
func (w whileWanted) Read(p []byte) (int, error) {
	if err := w.ended(); err != nil {
		return 0, errors.WithStack(err)
	}
	return w.from.Read(p)
}

// publish writes what makes the directory a layout, and moves it to its place.
func (l *layout) publish(ctx context.Context, manifest ocispecs.Descriptor, text []byte) error {
	if err := l.blob(ctx, manifest, memory(text)); err != nil {
		return err
	}
	manifest.Annotations = map[string]string{ocispecs.AnnotationRefName: l.tag}
	for name, v := range map[string]any{
		ocispecs.ImageLayoutFile: ocispecs.ImageLayout{Version: ocispecs.ImageLayoutVersion},
		ocispecs.ImageIndexFile: ocispecs.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{manifest},
		},
	} {
		text, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(l.work, name), text, 0o644)
		}
		if err != nil {
			return errors.WithStack(err)
		}
	}
	if err := os.Chmod(l.work, 0o755); err != nil {
		return errors.WithStack(err)
	}
	if err := os.Remove(l.dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty one, unless somebody was faster
		return errors.WithStack(err)
	}
	if err := os.Rename(l.work, l.dir); err != nil {
		return errors.WithStack(err)
	}
	l.work = ""
	return nil
}

// close removes what is unfinished.
func (l *layout) close() error {
	if l.work == "" {
		return nil
	}
	return errors.WithStack(os.RemoveAll(l.work))
}
