package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// testRegistry serves one image as "app:v1" by the pull part of the distribution API.
type testRegistry struct {
	img *testImage
	// ref is the name of the image there.
	ref string

	mu sync.Mutex
	// instead, if set, is asked before a blob is served, and serves it itself if it returns true.
	instead func(w http.ResponseWriter, r *http.Request, d digest.Digest) bool
	// gets are the paths that were read, in order.
	gets []string
}

func serve(t testing.TB, img *testImage) *testRegistry {
	t.Helper()
	reg := &testRegistry{img: img}
	server := httptest.NewServer(reg)
	t.Cleanup(server.Close)
	reg.ref = strings.TrimPrefix(server.URL, "http://") + "/app:v1"
	return reg
}

// ServeHTTP implements http.Handler.
func (reg *testRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		reg.mu.Lock()
		reg.gets = append(reg.gets, r.URL.Path)
		reg.mu.Unlock()
	}
	name, object, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/app/"), "/")
	if !ok || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		http.NotFound(w, r)
		return
	}
	if object == "v1" {
		object = reg.img.manifest.Digest.String()
	}
	d := digest.Digest(object)
	data, ok := reg.img.blobs[d]
	if !ok {
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if name == "manifests" {
		w.Header().Set("Content-Type", ocispecs.MediaTypeImageManifest)
	}
	w.Header().Set("Docker-Content-Digest", object)
	reg.mu.Lock()
	instead := reg.instead
	reg.mu.Unlock()
	if name == "blobs" && instead != nil && instead(w, r, d) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// serveInstead has blobs served by fn, where it returns true; nil ends that.
func (reg *testRegistry) serveInstead(fn func(w http.ResponseWriter, r *http.Request, d digest.Digest) bool) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.instead = fn
}

// takeGets returns the digests that were read since it was last called, manifest and config aside.
func (reg *testRegistry) takeGets() (layers []string) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	for _, path := range reg.gets {
		object := path[strings.LastIndexByte(path, '/')+1:]
		if object != "v1" && object != reg.img.manifest.Digest.String() && object != reg.img.config.Digest.String() {
			layers = append(layers, object)
		}
	}
	reg.gets = nil
	return layers
}
