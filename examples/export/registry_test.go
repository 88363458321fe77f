package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/console"
)

// testRegistry takes and serves what is pushed to "app", by the distribution API.
type testRegistry struct {
	// ref is a name there.
	ref string

	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	manifests map[string][]byte // by tag and by digest
	uploads   int
	// instead, if set, is asked before a blob is taken, and answers itself if it returns true.
	instead func(w http.ResponseWriter, d digest.Digest) bool
}

func serve(t testing.TB) *testRegistry {
	t.Helper()
	reg := &testRegistry{blobs: map[digest.Digest][]byte{}, manifests: map[string][]byte{}}
	server := httptest.NewServer(reg)
	t.Cleanup(server.Close)
	reg.ref = strings.TrimPrefix(server.URL, "http://") + "/app:v1"
	return reg
}

// ServeHTTP implements http.Handler.
func (reg *testRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, object, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/app/"), "/")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	d := digest.Digest(r.URL.Query().Get("digest"))
	reg.mu.Lock()
	instead := reg.instead
	reg.mu.Unlock()
	if r.Method == http.MethodPut && kind == "blobs" && instead != nil && instead(w, d) {
		return
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	switch {
	case kind == "blobs" && r.Method == http.MethodPost:
		w.Header().Set("Location", "/v2/app/blobs/uploads/1")
		w.WriteHeader(http.StatusAccepted)
	case kind == "blobs" && r.Method == http.MethodPut:
		if digest.FromBytes(body) != d {
			http.Error(w, `{"errors":[{"code":"DIGEST_INVALID"}]}`, http.StatusBadRequest)
			return
		}
		reg.blobs[d] = body
		reg.uploads++
		w.Header().Set("Docker-Content-Digest", d.String())
		w.WriteHeader(http.StatusCreated)
	case kind == "manifests" && r.Method == http.MethodPut:
		reg.putManifest(w, object, body)
	case kind == "blobs":
		reg.answer(w, "application/octet-stream", reg.blobs[digest.Digest(object)])
	case kind == "manifests":
		reg.answer(w, ocispecs.MediaTypeImageManifest, reg.manifests[object])
	default:
		http.NotFound(w, r)
	}
}

// putManifest takes a manifest, if what it lists is there, as registries do.
func (reg *testRegistry) putManifest(w http.ResponseWriter, tag string, body []byte) {
	var manifest ocispecs.Manifest
	if err := json.Unmarshal(body, &manifest); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, desc := range append(manifest.Layers, manifest.Config) {
		if len(reg.blobs[desc.Digest]) != int(desc.Size) {
			http.Error(w, `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
	}
	d := digest.FromBytes(body)
	reg.manifests[tag], reg.manifests[d.String()] = body, body
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (reg *testRegistry) answer(w http.ResponseWriter, mediaType string, data []byte) {
	if data == nil {
		http.Error(w, `{"errors":[{"code":"UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
	_, _ = w.Write(data) // the client may have gone away
}

// takeInstead has blobs taken by fn, where it returns true; nil ends that.
func (reg *testRegistry) takeInstead(fn func(w http.ResponseWriter, d digest.Digest) bool) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.instead = fn
}

// taken returns how many blobs were uploaded since it was last called.
func (reg *testRegistry) taken() int {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	n := reg.uploads
	reg.uploads = 0
	return n
}

// ReaderAt implements content.Provider.
func (reg *testRegistry) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	data, ok := reg.blobs[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return memory(data).ReaderAt(ctx, desc)
}

// image returns what was pushed under a tag.
func (reg *testRegistry) image(t testing.TB, tag string) (manifest ocispecs.Manifest, config ocispecs.Image) {
	t.Helper()
	reg.mu.Lock()
	defer reg.mu.Unlock()
	require.Contains(t, reg.manifests, tag)
	require.NoError(t, json.Unmarshal(reg.manifests[tag], &manifest))
	require.NoError(t, json.Unmarshal(reg.blobs[manifest.Config.Digest], &config))
	return manifest, config
}

// What is pushed is the image; what the registry has already is not sent again.
func TestPush(t *testing.T) { // spec RMT-1, RMT-6
	b := build(t)
	for _, kind := range compressions {
		t.Run(kind, func(t *testing.T) {
			reg := serve(t)
			args := []string{"-dir", b.dir, "-record", b.top, "-compression", kind, "-force", "-push", reg.ref}
			r := mustExport(t, args...)
			require.Contains(t, r.stdout, "image  "+reg.ref+"\n")
			require.Regexp(t, `(?m)^layer 3/3  [0-9a-f]{12}  written  [0-9.]+ k?B$`, r.stderr)
			require.Equal(t, 4, reg.taken())
			manifest, config := reg.image(t, "v1")
			require.Equal(t, mediaTypes[kind], manifest.Layers[0].MediaType)
			b.requireTree(t, manifest, config, reg)

			r = mustExport(t, append(args[:len(args)-1:len(args)-1], strings.Replace(reg.ref, ":v1", ":v2", 1))...)
			require.Zero(t, reg.taken())
			require.Regexp(t, `(?m)^layer 3/3  [0-9a-f]{12}  written  [0-9.]+ k?B  \(was there\)$`, r.stderr)
			again, _ := reg.image(t, "v2")
			require.Equal(t, manifest, again)
		})
	}
}

// A registry that refuses a layer gets no image, and the error says which layer it was.
func TestPushRefused(t *testing.T) { // fault 11
	b := build(t)
	dir := filepath.Join(t.TempDir(), "layout")
	mustExport(t, "-dir", b.dir, "-record", b.top, "-o", dir)
	bad := readLayout(t, dir).manifest.Layers[1].Digest
	reg := serve(t)
	reg.takeInstead(func(w http.ResponseWriter, d digest.Digest) bool {
		if d == bad {
			http.Error(w, "\x1b[2Jno", http.StatusForbidden)
		}
		return d == bad
	})
	r := export(t.Context(), "-dir", b.dir, "-record", b.top, "-push", reg.ref)
	require.Equal(t, console.ExitError, r.code)
	require.Contains(t, r.stderr, "export: write blob "+bad.String())
	require.NotContains(t, r.stderr, "\x1b")
	require.Empty(t, reg.manifests)
	reg.takeInstead(nil)
	mustExport(t, "-dir", b.dir, "-record", b.top, "-push", reg.ref)
	manifest, config := reg.image(t, "v1")
	b.requireTree(t, manifest, config, reg)
}

// A registry that hangs does not keep the program from being interrupted; afterwards the export works at once.
func TestPushInterrupted(t *testing.T) { // faults 13, 26
	b := build(t)
	reg := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	free := make(chan struct{})
	var once sync.Once
	reg.takeInstead(func(http.ResponseWriter, digest.Digest) bool {
		once.Do(cancel)
		<-free
		return true
	})
	r := export(ctx, "-dir", b.dir, "-record", b.top, "-push", reg.ref)
	close(free)
	require.Equal(t, console.ExitInterrupt, r.code, r.stderr)
	require.Regexp(t, `(?m)^export: interrupted: `, r.stderr)
	reg.takeInstead(nil)
	mustExport(t, "-dir", b.dir, "-record", b.top, "-push", reg.ref)
	manifest, config := reg.image(t, "v1")
	b.requireTree(t, manifest, config, reg)
}
