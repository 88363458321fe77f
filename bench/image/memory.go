package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"maps"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// Memory is a content.Provider of blobs in memory.
type Memory map[digest.Digest][]byte

// Tiny makes an image of layers with one small file each, bottom first, that Memory then provides.
func (m Memory) Tiny(layers int) ([]ocispecs.Descriptor, error) {
	made := Memory{}
	var out []ocispecs.Descriptor
	for i := range layers {
		var archive, blob bytes.Buffer
		t := tar.NewWriter(&archive)
		text := fmt.Sprintf("layer %d of %d\n", i, layers)
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("file%d", i), Mode: 0o644, Size: int64(len(text)), ModTime: stamp}
		if err := t.WriteHeader(hdr); err != nil {
			return nil, errors.WithStack(err)
		}
		if _, err := t.Write([]byte(text)); err != nil {
			return nil, errors.WithStack(err)
		}
		if err := t.Close(); err != nil {
			return nil, errors.WithStack(err)
		}
		z := gzip.NewWriter(&blob)
		if _, err := z.Write(archive.Bytes()); err != nil {
			return nil, errors.WithStack(err)
		}
		if err := z.Close(); err != nil {
			return nil, errors.WithStack(err)
		}
		d := digest.FromBytes(blob.Bytes())
		made[d] = blob.Bytes()
		out = append(out, describe(d, digest.FromBytes(archive.Bytes()), int64(blob.Len())))
	}
	maps.Copy(m, made)
	return out, nil
}

// ReaderAt implements content.Provider.
func (m Memory) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, ok := m[desc.Digest]
	if !ok {
		return nil, errors.Wrapf(errdefs.ErrNotFound, "blob %s", desc.Digest)
	}
	return memoryBlob{bytes.NewReader(data)}, nil
}

type memoryBlob struct{ *bytes.Reader }

func (memoryBlob) Close() error { return nil }
