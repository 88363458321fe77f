package image

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// Spec says what an image looks like.
type Spec struct {
	Layers int
	// MinLayer and MaxLayer are the sizes of uncompressed layers in bytes, about. Layers are spread in between.
	MinLayer, MaxLayer int64
}

// Image is an image whose blobs are files, each named after the hex digits of its digest.
type Image struct {
	Dir    string
	Layers []ocispecs.Descriptor // bottom first
	// Files and Bytes count the regular files of the image's tree.
	Files int
	Bytes int64
	// Blobs and Archives are the sizes of all layers, compressed and not.
	Blobs, Archives int64
}

// Make writes an image into a directory. The same spec gives the same image.
func Make(dir string, s Spec) (*Image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, errors.WithStack(err)
	}
	img := &Image{Dir: dir}
	for i := range s.Layers {
		size := s.MinLayer
		if s.Layers > 1 {
			// Small and large ones take turns, as they do in images.
			size += (s.MaxLayer - s.MinLayer) * int64(i*7%s.Layers) / int64(s.Layers-1)
		}
		if err := img.addLayer(i, size); err != nil {
			return nil, errors.Wrapf(err, "making layer %d", i)
		}
	}
	return img, nil
}

func (img *Image) addLayer(i int, size int64) (err error) {
	f, err := os.CreateTemp(img.Dir, "layer-")
	if err != nil {
		return errors.WithStack(err)
	}
	defer f.Close()
	blob, plain := digest.Canonical.Digester(), digest.Canonical.Digester()
	counted := &counter{}
	z := gzip.NewWriter(io.MultiWriter(f, blob.Hash(), counted))
	archive := &counter{}
	t := tar.NewWriter(io.MultiWriter(z, plain.Hash(), archive))
	l := &layer{rnd: rand.New(rand.NewPCG(uint64(i), 17)), tar: t, img: img} //nolint:gosec // the same each time
	if err := l.fill(i, size); err != nil {
		return err
	}
	for _, c := range []io.Closer{t, z, f} {
		if err := c.Close(); err != nil {
			return errors.WithStack(err)
		}
	}
	img.Blobs += counted.n
	img.Archives += archive.n
	img.Layers = append(img.Layers, describe(blob.Digest(), plain.Digest(), counted.n))
	return errors.WithStack(os.Rename(f.Name(), filepath.Join(img.Dir, blob.Digest().Encoded())))
}

// layer is one that is being written.
type layer struct {
	rnd *rand.Rand
	tar *tar.Writer
	img *Image
}

// fill writes directories of files until there is enough: many small files, and a few that make up most of the
// size, as in the images of distributions.
func (l *layer) fill(number int, size int64) error {
	const filesPerDir = 25
	top := fmt.Sprintf("opt/app%d", number)
	for _, dir := range []string{"opt", top} {
		if err := l.dir(dir); err != nil {
			return err
		}
	}
	for n := 0; size > 0; n++ {
		dir := path.Join(top, fmt.Sprintf("dir%03d", n/filesPerDir))
		if n%filesPerDir == 0 {
			if err := l.dir(dir); err != nil {
				return err
			}
		}
		// The median of sizes is 6 KiB, and one in a hundred has more than 1 MiB.
		length := int64(min(6*1024*math.Exp(2.2*l.rnd.NormFloat64()), 8<<20))
		length = min(length, size)
		if err := l.file(path.Join(dir, fmt.Sprintf("file%04d.dat", n)), length); err != nil {
			return err
		}
		size -= length + 512
	}
	return nil
}

// stamp is the time of all files.
var stamp = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (l *layer) dir(name string) error {
	return errors.WithStack(l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: stamp}))
}

func (l *layer) file(name string, length int64) error {
	err := l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: length, ModTime: stamp})
	if err != nil {
		return errors.WithStack(err)
	}
	l.img.Files++
	l.img.Bytes += length
	_, err = l.tar.Write(l.content(length))
	return errors.WithStack(err)
}

// content compresses to about 40 %, as programs and libraries do: short pieces that come again, between noise.
func (l *layer) content(length int64) []byte {
	b := make([]byte, 0, length+64)
	for int64(len(b)) < length {
		if len(b) > 64 && l.rnd.IntN(100) < 75 {
			from := len(b) - 16 - l.rnd.IntN(min(len(b)-16, 16<<10))
			b = append(b, b[from:min(len(b), from+8+l.rnd.IntN(24))]...)
			continue
		}
		for range 1 + l.rnd.IntN(10) {
			b = append(b, byte(l.rnd.Uint32()))
		}
	}
	return b[:length]
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
