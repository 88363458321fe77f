package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// Epoch is the time that everything has which the tests make.
var Epoch = time.Date(2020, time.January, 2, 3, 4, 5, 0, time.UTC)

// Layout is an OCI image layout on disk, of one image.
type Layout struct {
	Dir string
	// Digest is that of the image's manifest.
	Digest digest.Digest
}

// WriteLayout makes an image of three layers in a directory: the box as /bin/box, two files in /etc, and one that deletes the second of them.
func WriteLayout(dir, box string) (*Layout, error) {
	program, err := os.ReadFile(box)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	l := &Layout{Dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, errors.WithStack(err)
	}
	image := ocispecs.Image{
		Created:  &Epoch,
		Platform: ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispecs.RootFS{Type: "layers"},
		Config:   ocispecs.ImageConfig{Env: []string{"PATH=/bin"}},
	}
	manifest := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, files := range [][]tarFile{
		{{name: "bin/", mode: 0o755}, {name: "bin/box", mode: 0o755, content: program}},
		{{name: "etc/", mode: 0o755}, {name: "etc/kept", mode: 0o644, content: []byte("kept")}, {name: "etc/gone", mode: 0o600, content: []byte("gone")}},
		{{name: "etc/", mode: 0o755}, {name: "etc/.wh.gone"}},
	} {
		layer, err := tarOf(files)
		if err != nil {
			return nil, err
		}
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromBytes(layer))
		desc, err := l.add(ocispecs.MediaTypeImageLayerGzip, compressed(layer))
		if err != nil {
			return nil, err
		}
		manifest.Layers = append(manifest.Layers, desc)
	}
	if manifest.Config, err = l.addJSON(ocispecs.MediaTypeImageConfig, image); err != nil {
		return nil, err
	}
	desc, err := l.addJSON(ocispecs.MediaTypeImageManifest, manifest)
	if err != nil {
		return nil, err
	}
	l.Digest = desc.Digest
	index := ocispecs.Index{Versioned: manifest.Versioned, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{desc}}
	if err := writeJSON(filepath.Join(dir, ocispecs.ImageIndexFile), index); err != nil {
		return nil, err
	}
	return l, writeJSON(filepath.Join(dir, ocispecs.ImageLayoutFile), ocispecs.ImageLayout{Version: ocispecs.ImageLayoutVersion})
}

func (l *Layout) addJSON(mediaType string, v any) (ocispecs.Descriptor, error) {
	dt, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, errors.WithStack(err)
	}
	return l.add(mediaType, dt)
}

func (l *Layout) add(mediaType string, dt []byte) (ocispecs.Descriptor, error) {
	desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(dt), Size: int64(len(dt))}
	return desc, errors.WithStack(os.WriteFile(l.blob(desc.Digest), dt, 0o644))
}

// blob is where a blob lies.
func (l *Layout) blob(d digest.Digest) string {
	return filepath.Join(l.Dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func writeJSON(file string, v any) error {
	dt, err := json.Marshal(v)
	if err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.WriteFile(file, dt, 0o644))
}

// tarFile is a file of a layer, or a directory if its name ends with a slash.
type tarFile struct {
	name    string
	mode    int64
	content []byte
}

func tarOf(files []tarFile) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: Epoch, Typeflag: tar.TypeReg}
		if f.name[len(f.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, errors.WithStack(err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, errors.WithStack(err)
		}
	}
	return b.Bytes(), errors.WithStack(w.Close())
}

func compressed(dt []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(dt) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}
