// Package registry is a registry of layer blobs on loopback, for tests that count what is pulled over HTTP. It serves
// GET /v2/<repository>/blobs/<digest>, with ranges, to anybody, and knows no manifests; the module github.com/layercache/cache/registry
// tests against a whole one.
package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// Registry is a running registry. Its methods may be called from any goroutine.
type Registry struct {
	server *httptest.Server
	client *http.Client

	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	// served is how many bytes of each blob went out, and asked how many requests there were for it.
	served map[digest.Digest]int64
	asked  map[digest.Digest]int
	before func(context.Context, digest.Digest) error
}

// New starts a registry that ends with the test.
func New(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{blobs: map[digest.Digest][]byte{}, served: map[digest.Digest]int64{}, asked: map[digest.Digest]int{}}
	r.server = httptest.NewServer(r)
	tr := &http.Transport{DisableKeepAlives: true} // a connection that is kept has goroutines that outlive the test
	r.client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		r.server.Close()
	})
	return r
}

// Host is where the registry listens, "127.0.0.1:<port>".
func (r *Registry) Host() string { return strings.TrimPrefix(r.server.URL, "http://") }

// Before sets what is asked before a blob is served; an error is answered with "unavailable". Nil takes it away.
func (r *Registry) Before(fn func(ctx context.Context, d digest.Digest) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = fn
}

// Served returns how many bytes of a blob were served, and to how many requests.
func (r *Registry) Served(d digest.Digest) (size int64, requests int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served[d], r.asked[d]
}

// Layer packs entries into an archive, compresses that ("", "gzip" or "zstd") and adds the blob. The descriptor has all that the cache needs.
func (r *Registry) Layer(t testing.TB, compression string, entries ...tree.Entry) ocispecs.Descriptor {
	t.Helper()
	plain, err := tree.Tar(entries...)
	require.NoError(t, err)
	var buf bytes.Buffer
	desc := ocispecs.Descriptor{
		MediaType:   ocispecs.MediaTypeImageLayer,
		Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(plain).String()},
	}
	var w io.WriteCloser
	switch compression {
	case "gzip":
		w, desc.MediaType = gzip.NewWriter(&buf), ocispecs.MediaTypeImageLayerGzip
	case "zstd":
		w, err = zstd.NewWriter(&buf)
		require.NoError(t, err)
		desc.MediaType = ocispecs.MediaTypeImageLayerZstd
	}
	if w == nil {
		buf.Write(plain)
	} else {
		_, err = w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	desc.Digest, desc.Size = digest.FromBytes(buf.Bytes()), int64(buf.Len())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[desc.Digest] = buf.Bytes()
	return desc
}

// ServeHTTP serves blobs.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	d := digest.Digest(path.Base(req.URL.Path))
	r.mu.Lock()
	data, ok := r.blobs[d]
	before := r.before
	if ok {
		r.asked[d]++
	}
	r.mu.Unlock()
	if !ok || !strings.HasPrefix(req.URL.Path, "/v2/") || path.Base(path.Dir(req.URL.Path)) != "blobs" {
		http.NotFound(w, req)
		return
	}
	if before != nil {
		if err := before(req.Context(), d); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	counted := &counter{ResponseWriter: w}
	http.ServeContent(counted, req, "", time.Time{}, bytes.NewReader(data))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.served[d] += counted.n
}

type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// Provider reads the blobs of a repository over HTTP, whatever its name.
func (r *Registry) Provider(repository string) content.Provider { return provider{r, repository} }

type provider struct {
	r          *Registry
	repository string
}

func (p provider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	return &reader{ctx: ctx, p: p, desc: desc}, nil
}

// reader reads a blob by ranges. It belongs to one transfer, and so does its context.
type reader struct {
	ctx  context.Context
	p    provider
	desc ocispecs.Descriptor
}

func (r *reader) Close() error { return nil }
func (r *reader) Size() int64  { return r.desc.Size }

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.desc.Size {
		return 0, io.EOF
	}
	end := min(off+int64(len(p)), r.desc.Size)
	url := r.p.r.server.URL + "/v2/" + r.p.repository + "/blobs/" + r.desc.Digest.String()
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, errors.WithStack(err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, end-1))
	resp, err := r.p.r.client.Do(req)
	if err != nil {
		return 0, errors.WithStack(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusNotFound:
		return 0, errors.Wrapf(errdefs.ErrNotFound, "GET %s", url)
	default:
		return 0, errors.Wrapf(errdefs.ErrUnavailable, "GET %s: %s", url, resp.Status)
	}
	n, err := io.ReadFull(resp.Body, p[:end-off])
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
