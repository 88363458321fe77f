package e2e

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// registry keeps images in memory and serves them over loopback, by the part of the distribution protocol that BuildKit pushes and
// pulls with. It looks at digests and at nothing else.
type registry struct {
	mu sync.Mutex
	// blobs are blobs and manifests, by digest.
	blobs map[digest.Digest]stored
	// tags are digests of manifests, by repository and tag.
	tags map[string]digest.Digest
	// gets counts requests for contents of blobs, by repository.
	gets map[string]int
}

type stored struct {
	mediaType string
	content   []byte
}

// newRegistry starts a registry, and returns it with its address.
func newRegistry(t *testing.T) (*registry, string) {
	t.Helper()
	r := &registry{blobs: map[digest.Digest]stored{}, tags: map[string]digest.Digest{}, gets: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v2/{repo}/blobs/uploads/", r.begin)
	mux.HandleFunc("PUT /v2/{repo}/blobs/uploads/{id}", r.putBlob)
	mux.HandleFunc("GET /v2/{repo}/blobs/{digest}", r.getBlob)
	mux.HandleFunc("PUT /v2/{repo}/manifests/{ref}", r.putManifest)
	mux.HandleFunc("GET /v2/{repo}/manifests/{ref}", r.getManifest)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return r, strings.TrimPrefix(s.URL, "http://")
}

func (r *registry) begin(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Location", fmt.Sprintf("/v2/%s/blobs/uploads/%s", req.PathValue("repo"), rand.Text()))
	w.WriteHeader(http.StatusAccepted)
}

func (r *registry) putBlob(w http.ResponseWriter, req *http.Request) {
	dgst := digest.Digest(req.URL.Query().Get("digest"))
	dt, err := io.ReadAll(req.Body)
	if err != nil || digest.FromBytes(dt) != dgst {
		http.Error(w, "not the blob that was announced", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[dgst] = stored{"application/octet-stream", dt}
	w.Header().Set("Docker-Content-Digest", dgst.String())
	w.WriteHeader(http.StatusCreated)
}

func (r *registry) getBlob(w http.ResponseWriter, req *http.Request) {
	dgst := digest.Digest(req.PathValue("digest"))
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Method == http.MethodGet {
		r.gets[req.PathValue("repo")]++
	}
	r.send(w, req, dgst)
}

func (r *registry) putManifest(w http.ResponseWriter, req *http.Request) {
	dt, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	dgst := digest.FromBytes(dt)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[dgst] = stored{req.Header.Get("Content-Type"), dt}
	r.tags[req.PathValue("repo")+":"+req.PathValue("ref")] = dgst
	w.Header().Set("Docker-Content-Digest", dgst.String())
	w.WriteHeader(http.StatusCreated)
}

func (r *registry) getManifest(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dgst, ok := r.tags[req.PathValue("repo")+":"+req.PathValue("ref")]
	if !ok {
		dgst = digest.Digest(req.PathValue("ref"))
	}
	r.send(w, req, dgst)
}

func (r *registry) send(w http.ResponseWriter, req *http.Request, dgst digest.Digest) {
	b, ok := r.blobs[dgst]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Docker-Content-Digest", dgst.String())
	w.Header().Set("Content-Length", fmt.Sprint(len(b.content)))
	if req.Method == http.MethodGet {
		_, _ = w.Write(b.content) // whoever asked is gone
	}
}

// fetched returns how often contents of a repository's blobs were asked for since the last time.
func (r *registry) fetched(repo string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.gets[repo]
	delete(r.gets, repo)
	return n
}
