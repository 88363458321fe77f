package suites

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// BuildKit's tests of a worker start a program of this name as a mirror of images that they then copy to it from the network, unless
// it has them. This one has busybox.
const (
	registryName = "registry"
	mirrored     = "library/busybox"
)

// findBusybox returns the path of a busybox that runs without libraries, as it must in an image with nothing else.
func findBusybox() (string, error) {
	name, err := exec.LookPath("busybox")
	if err != nil {
		return "", errors.Wrapf(errdefs.ErrFailedPrecondition, "needs busybox (Debian: busybox-static): %v", err)
	}
	f, err := elf.Open(name)
	if err != nil {
		return "", errors.Wrapf(errdefs.ErrFailedPrecondition, "%s: %v", name, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.Wrapf(errdefs.ErrFailedPrecondition, "%s needs libraries; one that does not is Debian's busybox-static", name)
		}
	}
	return name, nil
}

// blob is something that a registry serves.
type blob struct {
	mediaType string
	dt        []byte
}

// image is what a registry serves under one name: blobs by digest, and the manifest.
type image struct {
	blobs    map[digest.Digest]blob
	manifest ocispecs.Descriptor
}

func (i *image) add(mediaType string, dt []byte) ocispecs.Descriptor {
	d := digest.FromBytes(dt)
	i.blobs[d] = blob{mediaType, dt}
	return ocispecs.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(dt))}
}

func (i *image) addJSON(mediaType string, v any) (ocispecs.Descriptor, error) {
	dt, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, errors.WithStack(err)
	}
	return i.add(mediaType, dt), nil
}

// newImage makes an image of one layer, with a program and its other names below bin.
func newImage(program []byte, names []string) (*image, error) {
	layer, err := newLayer(program, names)
	if err != nil {
		return nil, err
	}
	i := &image{blobs: map[digest.Digest]blob{}}
	layerDesc := i.add(ocispecs.MediaTypeImageLayer, layer)
	config := ocispecs.Image{
		Platform: ocispecs.Platform{Architecture: runtime.GOARCH, OS: runtime.GOOS},
		Config:   ocispecs.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
		History:  []ocispecs.History{{CreatedBy: "compat/suites"}},
	}
	configDesc, err := i.addJSON(ocispecs.MediaTypeImageConfig, config)
	if err != nil {
		return nil, err
	}
	i.manifest, err = i.addJSON(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: configDesc, Layers: []ocispecs.Descriptor{layerDesc},
	})
	return i, err
}

func newLayer(program []byte, names []string) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	entries := []tar.Header{{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))}}
	for _, name := range names {
		if name != "busybox" {
			entries = append(entries, tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777})
		}
	}
	dirs := []tar.Header{{Name: "bin/", Mode: 0o755}}
	for _, name := range []string{"dev/", "etc/", "home/", "proc/", "root/", "sys/", "var/"} {
		dirs = append(dirs, tar.Header{Name: name, Mode: 0o755})
	}
	dirs = append(dirs, tar.Header{Name: "tmp/", Mode: 0o1777})
	for i := range dirs {
		dirs[i].Typeflag = tar.TypeDir
	}
	for _, h := range append(dirs, entries...) {
		h.ModTime, h.Format = time.Unix(0, 0), tar.FormatPAX
		if err := tw.WriteHeader(&h); err != nil {
			return nil, errors.Wrap(err, h.Name)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(program); err != nil {
				return nil, errors.Wrap(err, h.Name)
			}
		}
	}
	if err := tw.Close(); err != nil {
		return nil, errors.WithStack(err)
	}
	return b.Bytes(), nil
}

// ServeHTTP answers what a client asks that pulls the image.
func (i *image) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		http.Error(w, "this registry only serves", http.StatusMethodNotAllowed)
		return
	}
	if req.URL.Path == "/v2/" {
		return
	}
	d := digest.Digest(path.Base(req.URL.Path))
	if d == "latest" {
		d = i.manifest.Digest
	}
	b, ok := i.blobs[d]
	switch path.Dir(req.URL.Path) {
	case "/v2/" + mirrored + "/manifests", "/v2/" + mirrored + "/blobs":
	default:
		ok = false
	}
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b.dt))
}

// serveRegistry serves busybox at a port of its choice, of which it tells in the words that BuildKit's tests wait for, until it is killed.
func serveRegistry() error {
	name, err := findBusybox()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(name)
	if err != nil {
		return errors.WithStack(err)
	}
	names, err := exec.Command(name, "--list").Output()
	if err != nil {
		return errors.Wrapf(err, "%s --list", name)
	}
	i, err := newImage(program, strings.Fields(string(names)))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.WithStack(err)
	}
	fmt.Fprintf(os.Stderr, "listening on %s\n", l.Addr())
	srv := &http.Server{Handler: i, ReadHeaderTimeout: time.Minute}
	return errors.WithStack(srv.Serve(l))
}
